//! Workers as processes that do what they like, and the pages that the policy shares with them.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::time::Duration;

use crate::ids::{TaskId, WorkerId};
use crate::policy::event::Claims;
use crate::time::Time;

/// Entries for claims in a worker's page.
const CLAIM_ENTRIES: u32 = 64;

/// How far a worker is with a task that was sent to it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Word {
    Sent,
    Claimed,
    Revoked,
}

/// A task in a worker's hands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Running {
    pub seq: u32,
    pub task: TaskId,
    pub at: Time,
    /// Whether the worker came to writing the time down.
    pub stamped: bool,
}

/// One process.
#[derive(Debug, Default)]
#[allow(clippy::struct_excessive_bools)] // Each can be true without the others.
pub struct Process {
    pub forked: bool,
    pub ready: bool,
    /// It is dead, and nobody has noticed yet.
    pub gone: bool,
    /// It was sent SIGKILL, and does nothing any more.
    pub killed: bool,
    /// It died of itself, or sent rubbish: its death is on nobody's account but its own.
    pub to_blame: bool,
    pub retiring: bool,
    pub has_exit_handlers: bool,
    pub wants_stack: bool,
    pub wants_exit_handlers: bool,
    /// It read a task that was taken back, and has not said so yet.
    pub skipped: bool,
    pub running: Option<Running>,
    pub inbox: VecDeque<(u32, TaskId)>,
    /// Results that nobody has collected.
    pub ring: VecDeque<(u32, TaskId)>,
    words: BTreeMap<u32, Word>,
    stamps: BTreeMap<u32, Time>,
    took: BTreeMap<u32, Duration>,
}

impl Process {
    pub fn acts(&self) -> bool {
        self.ready && !self.gone && !self.killed
    }

    /// Sequence numbers whose entries must not be used for another task.
    pub fn unsettled(&self) -> impl Iterator<Item = u32> + '_ {
        let sent = self.words.iter().filter(|&(_, &word)| word == Word::Sent).map(|(&seq, _)| seq);
        let held = self.running.iter().map(|running| running.seq);
        sent.chain(held).chain(self.ring.iter().map(|&(seq, _)| seq))
    }

    pub fn receive(&mut self, seq: u32, task: TaskId) {
        for other in self.unsettled() {
            assert_ne!(
                other % CLAIM_ENTRIES,
                seq % CLAIM_ENTRIES,
                "the claim of task {other} is overwritten"
            );
        }
        self.words.insert(seq, Word::Sent);
        self.inbox.push_back((seq, task));
    }

    pub fn word(&self, seq: u32) -> Option<Word> {
        self.words.get(&seq).copied()
    }
}

/// A task's start, as only the model knows it.
#[derive(Clone, Copy, Debug)]
pub struct Start {
    pub worker: WorkerId,
    pub at: Time,
}

/// All processes.
#[derive(Debug, Default)]
pub struct World {
    pub now: Time,
    pub processes: BTreeMap<WorkerId, Process>,
    /// Workers whose pages were given back.
    pub forgotten: BTreeSet<WorkerId>,
    /// Workers that died of themselves, forgotten or not.
    pub to_blame: BTreeSet<WorkerId>,
    pub starts: BTreeMap<TaskId, Vec<Start>>,
    /// Where not zero, workers go on while the policy looks at them.
    pub race: u64,
    /// Steps that a worker makes just before the next attempt to take something back from it.
    pub steps_before_revoke: u8,
}

impl World {
    pub fn process(&mut self, id: WorkerId) -> &mut Process {
        assert!(!self.forgotten.contains(&id), "{id:?} was forgotten before");
        self.processes.get_mut(&id).expect("a worker that was started")
    }

    /// One step of a worker: it finishes what it runs, or goes on to the next task.
    ///
    /// Returns whether anything happened.
    pub fn step(&mut self, id: WorkerId, stamped: bool) -> bool {
        let now = self.now;
        let process = self.processes.get_mut(&id).expect("a worker that was started");
        if !process.acts() {
            return false;
        }
        if let Some(running) = process.running.take() {
            process.ring.push_back((running.seq, running.task));
            if running.stamped {
                process.took.insert(running.seq, now.since(running.at));
            }
            return true;
        }
        let Some((seq, task)) = process.inbox.pop_front() else {
            return false;
        };
        if process.word(seq) == Some(Word::Revoked) {
            process.skipped = true;
            return true;
        }
        process.words.insert(seq, Word::Claimed);
        if stamped {
            process.stamps.insert(seq, now);
        }
        process.running = Some(Running { seq, task, at: now, stamped });
        self.starts.entry(task).or_default().push(Start { worker: id, at: now });
        true
    }

    fn next_random(&mut self) -> u64 {
        self.race ^= self.race << 13;
        self.race ^= self.race >> 7;
        self.race ^= self.race << 17;
        self.race
    }
}

impl Claims for World {
    fn revoke(&mut self, worker: WorkerId, seq: u32) -> bool {
        assert!(!self.forgotten.contains(&worker), "{worker:?} was forgotten before");
        if self.race != 0 && self.next_random().is_multiple_of(4) {
            for _ in 0..self.next_random() % 4 {
                let stamped = !self.next_random().is_multiple_of(8);
                self.step(worker, stamped);
            }
        }
        for _ in 0..std::mem::take(&mut self.steps_before_revoke) {
            self.step(worker, true);
        }
        let process = self.process(worker);
        match process.word(seq) {
            Some(Word::Sent) => {
                process.words.insert(seq, Word::Revoked);
                true
            }
            Some(Word::Revoked) => true,
            Some(Word::Claimed) => false,
            None => panic!("{worker:?} was never sent {seq}"),
        }
    }

    fn started(&self, worker: WorkerId, seq: u32) -> Option<Time> {
        assert!(!self.forgotten.contains(&worker), "{worker:?} was forgotten before");
        self.processes[&worker].stamps.get(&seq).copied()
    }

    fn took(&self, worker: WorkerId, seq: u32) -> Option<Duration> {
        assert!(!self.forgotten.contains(&worker), "{worker:?} was forgotten before");
        self.processes[&worker].took.get(&seq).copied()
    }

    fn has_exit_handlers(&self, worker: WorkerId) -> bool {
        self.processes[&worker].has_exit_handlers
    }
}
