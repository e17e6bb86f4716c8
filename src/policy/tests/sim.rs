//! A supervisor for the model: it feeds events to the policy and carries out what it answers.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::time::Duration;

use crate::exit_status::ExitStatus;
use crate::ids::{TaskId, WorkerId};
use crate::outcome::Outcome;
use crate::policy::Pool;
use crate::policy::config::PoolConfig;
use crate::policy::event::{Event, Shutdown};
use crate::task::{Limits, Priority, TaskSpec};
use crate::time::Time;

use super::model::World;

/// What the sim keeps with each task; it can't be copied, so the policy can't return it twice.
#[derive(Debug)]
pub struct Bag(pub TaskId);

/// How a task ended, in a form that can be compared.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum End {
    Returned,
    Raised,
    TimedOut,
    MemoryExceeded,
    WorkerDied { attempts: u32 },
    Condemned,
    InitializerFailed,
    NotStarted,
    Cancelled,
}

/// An action in a form that can be compared.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Did {
    Start(WorkerId),
    Send(WorkerId, TaskId),
    Recalled(TaskId),
    Began(TaskId),
    Retire(WorkerId),
    CaptureStack(WorkerId),
    RunExitHandlers(WorkerId),
    Interrupt(WorkerId),
    InterruptAgain(WorkerId),
    Signal(WorkerId, i32),
    Kill(WorkerId),
    Nudge(WorkerId),
    Collect(WorkerId),
    Sample(WorkerId),
    End(TaskId, End),
    Forget(WorkerId),
    Terminated,
}

/// What the sim knows of a task.
#[derive(Debug)]
#[allow(clippy::struct_excessive_bools)] // Each can be true without the others.
pub struct Known {
    pub spec: TaskSpec,
    pub submitted: Time,
    pub given_up: bool,
    pub watched: bool,
    /// How often it had begun when its watcher was told last.
    pub told: usize,
    pub over_memory: bool,
    pub end: Option<End>,
    pub ended: Time,
}

/// The policy and the world around it.
#[derive(Debug)]
pub struct Sim {
    pub pool: Pool<Bag, Vec<u8>>,
    pub world: World,
    pub tasks: BTreeMap<TaskId, Known>,
    /// What waits, by the account of the actions alone.
    pub waiting: BTreeSet<(Priority, TaskId)>,
    pub did: Vec<(Time, Did)>,
    pub samples: Vec<(WorkerId, u32)>,
    pub closed: Option<Shutdown>,
    pub terminated: bool,
    pub initializer_failures: u32,
    pub busy_before: usize,
    pub soft: BTreeSet<(WorkerId, u32)>,
    pub due: VecDeque<Event<Bag, Vec<u8>>>,
    wakes_at_once: u32,
    next_task: u64,
}

pub const fn ms(millis: u64) -> Duration {
    Duration::from_millis(millis)
}

pub const fn us(micros: u64) -> Duration {
    Duration::from_micros(micros)
}

pub fn w(id: u64) -> WorkerId {
    WorkerId::new(id)
}

/// Settings of a pool of this size, the others as they come.
pub fn of_size(max_workers: usize, min_workers: usize) -> PoolConfig {
    PoolConfig { max_workers, min_workers, ..PoolConfig::default() }
}

impl Sim {
    /// A pool whose workers have been asked for.
    pub fn new(config: PoolConfig) -> Self {
        let now = Time::from_nanos(1_000_000_000);
        let mut sim = Self {
            pool: Pool::new(config),
            world: World { now, ..World::default() },
            tasks: BTreeMap::new(),
            waiting: BTreeSet::new(),
            did: Vec::new(),
            samples: Vec::new(),
            closed: None,
            terminated: false,
            initializer_failures: 0,
            busy_before: 0,
            soft: BTreeSet::new(),
            due: VecDeque::new(),
            wakes_at_once: 0,
            next_task: 1,
        };
        let mut actions = Vec::new();
        sim.pool.start(now, &mut sim.world, &mut actions);
        sim.apply(actions);
        sim
    }

    /// A pool whose workers all wait for tasks.
    pub fn ready(config: PoolConfig) -> Self {
        let mut sim = Self::new(config);
        for id in sim.alive() {
            sim.boot(id);
        }
        sim
    }

    pub fn now(&self) -> Time {
        self.world.now
    }

    pub fn feed(&mut self, event: Event<Bag, Vec<u8>>) {
        self.due.push_back(event);
        while let Some(event) = self.due.pop_front() {
            let mut actions = Vec::new();
            self.pool.handle(event, self.world.now, &mut self.world, &mut actions);
            self.apply(actions);
            self.check();
        }
    }

    // What callers do.

    pub fn submit(&mut self, priority: u32, limits: Limits) -> TaskId {
        self.submit_or_not(priority, limits, false)
    }

    pub fn submit_taken_back(&mut self) -> TaskId {
        self.submit_or_not(0, Limits::default(), true)
    }

    fn submit_or_not(&mut self, priority: u32, limits: Limits, cancelled_early: bool) -> TaskId {
        let id = TaskId::from(self.next_task);
        self.next_task += 1;
        let priority = Priority(priority);
        let spec = TaskSpec { id, priority, limits, watched: false, cancelled_early };
        let known = Known {
            spec,
            submitted: self.now(),
            given_up: cancelled_early,
            watched: false,
            told: 0,
            over_memory: false,
            end: None,
            ended: Time::default(),
        };
        self.tasks.insert(id, known);
        self.waiting.insert((spec.priority, id));
        self.feed(Event::Submit(spec, Bag(id)));
        id
    }

    pub fn submit_plain(&mut self) -> TaskId {
        self.submit(0, Limits::default())
    }

    pub fn cancel(&mut self, task: TaskId, kill: Option<i32>) {
        let known = self.tasks.get_mut(&task).expect("a task that was submitted");
        known.given_up |= known.end.is_none();
        self.feed(Event::Cancel { task, kill });
        assert!(self.tasks[&task].end.is_some(), "a cancelled task has not ended");
    }

    pub fn watch(&mut self, task: TaskId) {
        self.tasks.get_mut(&task).expect("a task that was submitted").watched = true;
        self.feed(Event::WatchStart(task));
    }

    pub fn shut_down(&mut self, mode: Shutdown) {
        self.closed = self.closed.max(Some(mode));
        self.feed(Event::Shutdown(mode));
    }

    // What workers do.

    pub fn fork(&mut self, id: WorkerId) {
        self.world.process(id).forked = true;
        let pid = 1000 + u32::try_from(id.get()).unwrap();
        self.feed(Event::Forked { worker: id, pid });
    }

    pub fn boot(&mut self, id: WorkerId) {
        if !self.world.process(id).forked {
            self.fork(id);
        }
        self.world.process(id).ready = true;
        self.feed(Event::Ready(id));
    }

    pub fn fail_start(&mut self, id: WorkerId) {
        let process = self.world.process(id);
        process.gone = true;
        process.to_blame = true;
        self.feed(Event::StartFailed { worker: id, reason: "fork: no memory".into() });
    }

    /// The worker begins its next task.
    pub fn begin(&mut self, id: WorkerId) {
        assert!(self.world.process(id).running.is_none());
        while self.world.process(id).running.is_none() {
            assert!(self.world.step(id, true), "{id:?} has nothing to begin");
        }
    }

    /// The worker finishes its task, but nobody is told.
    pub fn finish_quietly(&mut self, id: WorkerId) {
        assert!(self.world.process(id).running.is_some(), "{id:?} runs nothing");
        self.world.step(id, true);
    }

    /// The worker finishes its task, beginning it before if need be, and its results are collected.
    pub fn finish(&mut self, id: WorkerId) {
        if self.world.process(id).running.is_none() {
            self.begin(id);
        }
        self.finish_quietly(id);
        self.collect(id);
    }

    pub fn collect(&mut self, id: WorkerId) {
        self.collect_as(id, false, false);
    }

    pub fn collect_as(&mut self, id: WorkerId, raised: bool, recycle: bool) {
        let ring = std::mem::take(&mut self.world.process(id).ring);
        for (seq, task) in ring {
            let event = Self::result(id, seq, task, raised, recycle);
            self.feed(event);
        }
    }

    pub fn result(
        worker: WorkerId,
        seq: u32,
        task: TaskId,
        raised: bool,
        recycle: bool,
    ) -> Event<Bag, Vec<u8>> {
        let payload = task.get().to_le_bytes().to_vec();
        let outcome = if raised { Outcome::Raised(payload) } else { Outcome::Returned(payload) };
        Event::Finished { worker, seq, outcome, recycle }
    }

    /// The process dies of itself.
    pub fn die(&mut self, id: WorkerId) {
        self.world.process(id).gone = true;
        if !self.world.process(id).killed {
            self.world.process(id).to_blame = true;
            self.world.to_blame.insert(id);
        }
    }

    /// The process is noticed to be gone, after all that it had sent was read.
    pub fn reap(&mut self, id: WorkerId) {
        self.world.process(id).gone = true;
        self.collect(id);
        if !self.world.forgotten.contains(&id) {
            self.feed(Event::Exited { worker: id, exit: ExitStatus::Signal(9) });
        }
    }

    pub fn condemn(&mut self, id: WorkerId) {
        self.world.process(id).to_blame = true;
        self.world.to_blame.insert(id);
        self.feed(Event::Condemned { worker: id, reason: "read a frame: bad magic".into() });
    }

    // Time.

    /// Let time pass, with every timer on time and nothing else.
    pub fn pass(&mut self, time: Duration) {
        let until = self.now() + time;
        while let Some(at) = self.pool.next_timer().filter(|&at| at <= until) {
            self.wake_at(at);
        }
        self.world.now = until;
    }

    /// A timer fires; it may not do so for ever at the same instant.
    pub fn wake_at(&mut self, at: Time) {
        self.wakes_at_once = if at > self.now() { 0 } else { self.wakes_at_once + 1 };
        assert!(self.wakes_at_once < 100, "a timer fires again and again at once");
        self.world.now = self.now().max(at);
        self.feed(Event::Timer);
    }

    // What happened.

    pub fn alive(&self) -> Vec<WorkerId> {
        self.world.processes.keys().copied().collect()
    }

    pub fn end_of(&self, task: TaskId) -> Option<End> {
        self.tasks[&task].end
    }

    /// The worker that a task was last sent to.
    pub fn place_of(&self, task: TaskId) -> Option<WorkerId> {
        self.pool.tasks.get(&task)?.place.map(|(worker, _)| worker)
    }

    pub fn starts_of(&self, task: TaskId) -> usize {
        self.world.starts.get(&task).map_or(0, Vec::len)
    }

    pub fn count(&self, wanted: impl Fn(Did) -> bool) -> usize {
        self.did.iter().filter(|&&(_, did)| wanted(did)).count()
    }

    pub fn has_done(&self, wanted: Did) -> bool {
        self.count(|did| did == wanted) > 0
    }

    pub fn began_at(&self, did: Did) -> Option<Time> {
        self.did.iter().find(|&&(_, other)| other == did).map(|&(at, _)| at)
    }
}
