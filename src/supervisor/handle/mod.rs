//! What a future and the supervisor share about one task.
//!
//! The outcome is left in the handle. A thread that blocks in `Future.result()` sleeps on the
//! handle's *word*; where there is one it is woken for the outcome, and the completer is not in the
//! way. Otherwise the handle is queued for the completer, which settles futures in batches, unless a
//! thread that asks for the result comes first.
//!
//! The word holds a phase, two flags and the number of threads waiting:
//!
//! | phase | meaning | goes on to |
//! |---|---|---|
//! | open | no outcome here | offered, reserved, settled |
//! | offered | the outcome lies in the handle, for whoever comes first | taken, settled |
//! | reserved | the outcome lies in the handle, for the completer | taken, settled |
//! | taken | one thread holds the outcome and is settling the future with it | settled |
//! | settled | the future has ended | |
//!
//! Invariants:
//!
//! - Phases only go forward.
//! - An outcome in the handle is always taken, by exactly one thread: either a waiter was woken for
//!   it, and nobody who waits leaves without looking, or the handle is in the completer's queue.
//! - Whoever takes an outcome settles the future; whoever finds it taken waits for that.
//! - With the flag *prefers the completer* outcomes are reserved: there are callbacks to run, which
//!   are not the waiter's to run, or waiters of the standard library's kind.
//! - With the flag *completer waits* a callback in the completer's own thread waits for the future:
//!   it is woken for reserved outcomes too, which nobody else would take meanwhile.
//! - [`TaskHandle::deliver`] takes no lock that anyone holds while Python code runs.

use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use crate::ids::TaskId;
use crate::supervisor::messages::Outcome;
use crate::sys::futex::{self, Waited};

/// A task as both sides see it; `S` is what only the future's side knows.
#[derive(Debug)]
pub struct TaskHandle<S> {
    id: TaskId,
    /// The worker that runs or ran it; 0 until the task begins.
    pid: AtomicU32,
    word: AtomicU32,
    /// Filled on the way to the phases offered and reserved.
    slot: Mutex<Option<Outcome>>,
    side: S,
}

/// A thread that looks for an outcome.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Taker {
    /// Any.
    Caller,
    /// The completer of the task's pool.
    Completer,
}

/// What a thread that wants to wait finds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[must_use]
pub enum Entry {
    /// It counts as waiting now, and must [`TaskHandle::leave`].
    Waiting,
    /// An outcome lies here for it: take it.
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

    /// Leaves the outcome here. Says whether the handle must be queued for the completer; otherwise
    /// a waiter has the outcome, or the future had ended before.
    ///
    /// Called once. Doesn't block and takes no GIL.
    #[must_use]
    pub fn deliver(&self, outcome: Outcome) -> bool {
        let mut word = Word(self.word.load(Ordering::Acquire));
        if word.deliver().is_none() {
            return false;
        }
        *self.slot() = Some(outcome);
        while let Some(delivered) = word.deliver() {
            match self.exchange(word, delivered) {
                Ok(()) => {
                    // One is enough: it settles, and settling wakes the others.
                    futex::wake(&self.word, delivered.threads_to_wake());
                    return delivered.is_for_completer();
                }
                Err(now) => word = now,
            }
        }
        drop(self.slot().take());
        false
    }

    /// Counts the calling thread among those that wait, if there is something to wait for.
    pub fn enter(&self, by: Taker) -> Entry {
        match self.update(|word| word.enter(by)) {
            Ok(_) => Entry::Waiting,
            Err(word) if word.take(by).is_some() => Entry::Offered,
            Err(_) => Entry::Settled,
        }
    }

    /// **Blocks** until there is an outcome to take or the future has ended, until `deadline`
    /// (`None`: for ever) or a signal. Only between [`Self::enter`] and [`Self::leave`].
    pub fn wait(&self, by: Taker, deadline: Option<Instant>) -> Waited {
        loop {
            let word = Word(self.word.load(Ordering::Acquire));
            if !word.is_worth_waiting(by) {
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

    /// The outcome, if it lies here for the calling thread. The caller must settle.
    #[must_use]
    pub fn take(&self, by: Taker) -> Option<Outcome> {
        self.update(|word| word.take(by)).ok()?;
        self.slot().take()
    }

    /// Whether the future has ended, or is about to: the outcome is here.
    pub fn has_outcome(&self) -> bool {
        Word(self.word.load(Ordering::Acquire)).phase() != Phase::Open
    }

    /// From now on outcomes are the completer's. One may have been offered before: take it.
    pub fn prefer_completer(&self) {
        self.word.fetch_or(Word::PREFERS_COMPLETER, Ordering::AcqRel);
    }

    /// Says that the future has ended, and wakes everybody who waits for that.
    pub fn mark_settled(&self) {
        let before = Word(self.word.fetch_or(Word::SETTLED, Ordering::AcqRel));
        if matches!(before.phase(), Phase::Offered | Phase::Reserved) {
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
    Reserved,
    Taken,
    Settled,
}

impl Word {
    const OFFERED: u32 = 1;
    const RESERVED: u32 = 2;
    const TAKEN: u32 = 4;
    /// All bits of the phase, so that setting them settles from every phase.
    const SETTLED: u32 = 7;
    const PREFERS_COMPLETER: u32 = 8;
    const COMPLETER_WAITS: u32 = 16;
    /// One waiter; the rest of the word counts them.
    const WAITER: u32 = 32;

    const fn phase(self) -> Phase {
        match self.0 & Self::SETTLED {
            0 => Phase::Open,
            Self::OFFERED => Phase::Offered,
            Self::RESERVED => Phase::Reserved,
            Self::TAKEN => Phase::Taken,
            _ => Phase::Settled,
        }
    }

    const fn waiters(self) -> u32 {
        self.0 / Self::WAITER
    }

    const fn has(self, flag: u32) -> bool {
        self.0 & flag != 0
    }

    fn is_worth_waiting(self, by: Taker) -> bool {
        match self.phase() {
            Phase::Open | Phase::Taken => true,
            Phase::Reserved => by == Taker::Caller,
            Phase::Offered | Phase::Settled => false,
        }
    }

    fn deliver(self) -> Option<Self> {
        let phase = if self.has(Self::PREFERS_COMPLETER) { Self::RESERVED } else { Self::OFFERED };
        (self.phase() == Phase::Open).then_some(Self(self.0 | phase))
    }

    /// Whether no waiter can be counted on to take what was delivered.
    fn is_for_completer(self) -> bool {
        self.phase() == Phase::Reserved || self.waiters() == 0
    }

    fn threads_to_wake(self) -> u32 {
        match self.phase() {
            Phase::Offered => self.waiters().min(1),
            // Nobody knows which of them is the completer.
            Phase::Reserved if self.has(Self::COMPLETER_WAITS) => u32::MAX,
            _ => 0,
        }
    }

    fn enter(self, by: Taker) -> Option<Self> {
        let flag = if by == Taker::Completer { Self::COMPLETER_WAITS } else { 0 };
        self.is_worth_waiting(by).then_some(Self((self.0 | flag) + Self::WAITER))
    }

    fn take(self, by: Taker) -> Option<Self> {
        match self.phase() {
            Phase::Offered => Some(Self(self.0 ^ Self::OFFERED ^ Self::TAKEN)),
            Phase::Reserved if by == Taker::Completer => {
                Some(Self(self.0 ^ Self::RESERVED ^ Self::TAKEN))
            }
            _ => None,
        }
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
    fn without_a_waiter_the_completer_is_told() {
        let handle = handle();
        assert!(handle.deliver(Outcome::Cancelled));
        assert_eq!(handle.enter(Taker::Caller), Entry::Offered, "whoever comes first takes it");
        assert!(handle.take(Taker::Completer).is_some());
        handle.mark_settled();
        assert_eq!(handle.enter(Taker::Caller), Entry::Settled);
    }

    #[test]
    fn a_reserved_outcome_is_the_completer_s() {
        let handle = handle();
        assert_eq!(handle.enter(Taker::Caller), Entry::Waiting);
        handle.prefer_completer();
        assert!(!handle.has_outcome());
        assert!(handle.deliver(Outcome::Cancelled));
        assert!(handle.has_outcome());
        assert!(handle.take(Taker::Caller).is_none());
        assert_eq!(handle.enter(Taker::Completer), Entry::Offered);
        assert!(handle.take(Taker::Completer).is_some());
        handle.mark_settled();
        handle.leave();
    }

    #[test]
    fn a_future_that_has_ended_wants_no_outcome() {
        let handle = handle();
        handle.mark_settled();
        assert!(!handle.deliver(Outcome::Cancelled));
        assert!(handle.take(Taker::Completer).is_none());
    }

    #[test]
    fn an_offered_outcome_is_taken_once() {
        let handle = handle();
        assert_eq!(handle.enter(Taker::Caller), Entry::Waiting);
        assert!(!handle.deliver(Outcome::Cancelled));
        assert_eq!(handle.enter(Taker::Caller), Entry::Offered);
        assert!(handle.take(Taker::Caller).is_some());
        assert!(handle.take(Taker::Caller).is_none());
        assert_eq!(handle.enter(Taker::Caller), Entry::Waiting, "for the other to settle");
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
                            match handle.enter(Taker::Caller) {
                                Entry::Settled => return taken,
                                Entry::Offered => {}
                                Entry::Waiting => {
                                    // One waits for ever, the others leave all the time.
                                    let pause = Duration::from_micros(20 * waiter);
                                    let deadline = (waiter > 0).then(|| Instant::now() + pause);
                                    let _ = handle.wait(Taker::Caller, deadline);
                                    handle.leave();
                                }
                            }
                            if handle.take(Taker::Caller).is_some() {
                                taken += 1;
                                handle.mark_settled();
                            }
                        }
                    })
                })
                .collect();
            thread::sleep(Duration::from_micros(round % 50));
            let mut settled = 0;
            if handle.deliver(Outcome::Cancelled) && handle.take(Taker::Completer).is_some() {
                settled += 1;
                handle.mark_settled();
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
