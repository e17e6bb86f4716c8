//! What a future and the supervisor share about one task.
//!
//! A thread that blocks in `Future.result()` sleeps on the handle's *word*. When the outcome comes
//! and such a thread is there, the supervisor hands the outcome to it and wakes it: the completer
//! is not in the way. Otherwise the outcome goes to the completer, which settles futures in batches.
//!
//! The word holds a phase, a flag and the number of threads waiting:
//!
//! | phase | meaning | goes on to |
//! |---|---|---|
//! | open | no outcome here; *waited for* if the number is not zero | offered, settled |
//! | offered | the outcome lies in the handle, and one waiter was woken for it | taken, settled |
//! | taken | one thread holds the outcome and is settling the future with it | settled |
//! | settled | the future has ended | |
//!
//! Invariants:
//!
//! - Phases only go forward. An outcome is offered only while somebody waits, and nobody who waits
//!   leaves without looking: so an offered outcome is always taken, by exactly one thread.
//! - Whoever takes an outcome settles the future; whoever finds it taken waits for that.
//! - With the flag *prefers the completer* nothing is offered: there are callbacks to run, which are
//!   not the waiter's to run, or waiters of the standard library's kind.
//! - [`TaskHandle::deliver`] takes no lock that anyone holds while Python code runs.

use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use crate::outcome::Outcome;
use crate::sys::futex::{self, Waited};
use crate::task::TaskId;

/// A task as both sides see it; `S` is what only the future's side knows.
#[derive(Debug)]
pub struct TaskHandle<S> {
    id: TaskId,
    /// The worker that runs or ran it; 0 until the task begins.
    pid: AtomicU32,
    word: AtomicU32,
    /// Filled only on the way to the offered phase.
    slot: Mutex<Option<Outcome>>,
    side: S,
}

/// What a thread that wants to wait finds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[must_use]
pub enum Entry {
    /// It counts as waiting now, and must [`TaskHandle::leave`].
    Waiting,
    /// An outcome lies here: take it.
    Offered,
    /// The future has ended.
    Settled,
}

impl<S> TaskHandle<S> {
    /// A handle of a task that has not begun.
    pub fn new(id: TaskId, side: S) -> Self {
        Self { id, pid: AtomicU32::new(0), word: AtomicU32::new(0), slot: Mutex::new(None), side }
    }

    /// The task's identity.
    pub fn id(&self) -> TaskId {
        self.id
    }

    /// What only the future's side knows.
    pub fn side(&self) -> &S {
        &self.side
    }

    /// The worker that runs or ran the task; `None` until it begins.
    pub fn pid(&self) -> Option<u32> {
        Some(self.pid.load(Ordering::Acquire)).filter(|&pid| pid != 0)
    }

    /// Says which worker runs the task; `None` takes it back, where the task is to run again.
    pub fn set_pid(&self, pid: Option<u32>) {
        self.pid.store(pid.unwrap_or(0), Ordering::Release);
    }

    /// Hands the outcome to a thread that waits for it, or gives it back for the completer.
    ///
    /// Called once, by the supervisor. Doesn't block and takes no GIL. `None` means that there is
    /// nothing left to do: a waiter has it, or the future had ended before.
    pub fn deliver(&self, outcome: Outcome) -> Option<Outcome> {
        let mut word = Word(self.word.load(Ordering::Acquire));
        if word.offer().is_none() {
            return (word.phase() == Phase::Open).then_some(outcome);
        }
        *self.slot() = Some(outcome);
        while let Some(offered) = word.offer() {
            match self.exchange(word, offered) {
                Ok(()) => {
                    // One is enough: it settles, and settling wakes the others.
                    futex::wake(&self.word, 1);
                    return None;
                }
                Err(now) => word = now,
            }
        }
        let outcome = self.slot().take();
        outcome.filter(|_| word.phase() == Phase::Open)
    }

    /// Counts the calling thread among those that wait, if there is something to wait for.
    pub fn enter(&self) -> Entry {
        match self.update(Word::enter) {
            Ok(_) => Entry::Waiting,
            Err(word) if word.phase() == Phase::Offered => Entry::Offered,
            Err(_) => Entry::Settled,
        }
    }

    /// **Blocks** until there is an outcome to take or the future has ended, until `deadline`
    /// (`None`: for ever) or a signal. Only between [`Self::enter`] and [`Self::leave`].
    pub fn wait(&self, deadline: Option<Instant>) -> Waited {
        loop {
            let word = Word(self.word.load(Ordering::Acquire));
            if !word.is_worth_waiting() {
                return Waited::Woken;
            }
            let timeout = deadline.map(|at| at.saturating_duration_since(Instant::now()));
            match futex::wait(&self.word, word.0, timeout) {
                // Somebody else came or left, or took the outcome first.
                Waited::Woken => {}
                ended => return ended,
            }
        }
    }

    /// Ends what [`Self::enter`] began. The caller must then [`Self::take`].
    pub fn leave(&self) {
        self.word.fetch_sub(Word::WAITER, Ordering::AcqRel);
    }

    /// The offered outcome, if there is one and no other thread has it. The caller must settle.
    #[must_use]
    pub fn take(&self) -> Option<Outcome> {
        if Word(self.word.load(Ordering::Acquire)).phase() != Phase::Offered {
            return None;
        }
        self.update(Word::take).ok()?;
        self.slot().take()
    }

    /// From now on outcomes go to the completer. One may have been offered before: take it.
    pub fn prefer_completer(&self) {
        self.word.fetch_or(Word::PREFERS_COMPLETER, Ordering::AcqRel);
    }

    /// Says that the future has ended, and wakes everybody who waits for that.
    pub fn settle(&self) {
        let before = Word(self.word.fetch_or(Word::SETTLED, Ordering::AcqRel));
        if before.phase() == Phase::Offered {
            // Cancelled in the instant between: the outcome is nobody's.
            drop(self.slot().take());
        }
        if before.waiters() > 0 {
            futex::wake(&self.word, u32::MAX);
        }
    }

    fn slot(&self) -> MutexGuard<'_, Option<Outcome>> {
        self.slot.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn exchange(&self, from: Word, to: Word) -> Result<(), Word> {
        self.word
            .compare_exchange_weak(from.0, to.0, Ordering::AcqRel, Ordering::Acquire)
            .map(drop)
            .map_err(Word)
    }

    fn update(&self, step: impl Fn(Word) -> Option<Word>) -> Result<Word, Word> {
        self.word
            .fetch_update(Ordering::AcqRel, Ordering::Acquire, |word| {
                step(Word(word)).map(|word| word.0)
            })
            .map(Word)
            .map_err(Word)
    }
}

/// The steps of the protocol, as pure functions of the word.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
struct Word(u32);

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Phase {
    Open,
    Offered,
    Taken,
    Settled,
}

impl Word {
    const OFFERED: u32 = 1;
    const TAKEN: u32 = 2;
    /// All bits of the phase, so that setting them settles from every phase.
    const SETTLED: u32 = 3;
    const PREFERS_COMPLETER: u32 = 4;
    /// One waiter; the rest of the word counts them.
    const WAITER: u32 = 8;

    const fn phase(self) -> Phase {
        match self.0 & Self::SETTLED {
            0 => Phase::Open,
            Self::OFFERED => Phase::Offered,
            Self::TAKEN => Phase::Taken,
            _ => Phase::Settled,
        }
    }

    const fn waiters(self) -> u32 {
        self.0 / Self::WAITER
    }

    fn is_worth_waiting(self) -> bool {
        matches!(self.phase(), Phase::Open | Phase::Taken)
    }

    fn offer(self) -> Option<Self> {
        let possible = self.phase() == Phase::Open
            && self.waiters() > 0
            && self.0 & Self::PREFERS_COMPLETER == 0;
        possible.then_some(Self(self.0 | Self::OFFERED))
    }

    fn enter(self) -> Option<Self> {
        self.is_worth_waiting().then_some(Self(self.0 + Self::WAITER))
    }

    fn take(self) -> Option<Self> {
        (self.phase() == Phase::Offered).then_some(Self(self.0 ^ Self::OFFERED ^ Self::TAKEN))
    }
}

#[cfg(test)]
mod model;

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::thread;
    use std::time::Duration;

    use super::*;

    fn handle() -> Arc<TaskHandle<()>> {
        Arc::new(TaskHandle::new(TaskId::next(), ()))
    }

    #[test]
    fn without_a_waiter_the_completer_gets_the_outcome() {
        let handle = handle();
        assert!(handle.deliver(Outcome::Cancelled).is_some());
        assert_eq!(handle.enter(), Entry::Waiting);
        handle.prefer_completer();
        assert!(handle.deliver(Outcome::Cancelled).is_some());
        handle.settle();
        handle.leave();
        assert!(handle.deliver(Outcome::Cancelled).is_none(), "it has ended");
        assert_eq!(handle.enter(), Entry::Settled);
    }

    #[test]
    fn an_offered_outcome_is_taken_once() {
        let handle = handle();
        assert_eq!(handle.enter(), Entry::Waiting);
        assert!(handle.deliver(Outcome::Cancelled).is_none());
        assert_eq!(handle.enter(), Entry::Offered);
        assert!(handle.take().is_some());
        assert!(handle.take().is_none());
        assert_eq!(handle.enter(), Entry::Waiting, "for the other to settle");
    }

    #[test]
    fn threads_that_come_and_go_lose_nothing() {
        for round in 0..300_u64 {
            let handle = handle();
            let waiters: Vec<_> = (0..3)
                .map(|waiter| {
                    let handle = Arc::clone(&handle);
                    thread::spawn(move || {
                        let mut taken = 0;
                        loop {
                            match handle.enter() {
                                Entry::Settled => return taken,
                                Entry::Offered => {}
                                Entry::Waiting => {
                                    // One waits for ever, the others leave all the time.
                                    let pause = Duration::from_micros(20 * waiter);
                                    let deadline = (waiter > 0).then(|| Instant::now() + pause);
                                    let _ = handle.wait(deadline);
                                    handle.leave();
                                }
                            }
                            if handle.take().is_some() {
                                taken += 1;
                                handle.settle();
                            }
                        }
                    })
                })
                .collect();
            thread::sleep(Duration::from_micros(round % 50));
            let mut settled = 0;
            if handle.deliver(Outcome::Cancelled).is_some() {
                settled += 1;
                handle.settle();
            }
            settled += waiters.into_iter().map(|waiter| waiter.join().unwrap()).sum::<i32>();
            assert_eq!(settled, 1);
        }
    }

    #[test]
    fn the_pid_is_none_until_the_task_begins() {
        let handle = handle();
        assert_eq!(handle.pid(), None);
        handle.set_pid(Some(7));
        assert_eq!(handle.pid(), Some(7));
        handle.set_pid(None);
        assert_eq!(handle.pid(), None);
    }
}
