//! Room in the backlog, counted where the submitting threads are.
//!
//! A thread that submits takes a place before its task is on its way, so the backlog can't grow
//! over its bound; the supervisor gives places back. A task that comes back takes its place
//! again whether there is room or not: it had been let in before.

use std::sync::atomic::{AtomicBool, AtomicU32, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::time::Duration;

use crate::sys::futex::{self, Waited};
use crate::sys::waker::Waker;

/// Counts the tasks that wait, and holds submitters back.
#[derive(Debug)]
pub struct Gate {
    limit: usize,
    taken: AtomicUsize,
    closed: AtomicBool,
    waiters: AtomicU32,
    // Changes whenever those who wait should look again.
    turn: AtomicU32,
    // Who is to be told of room through a descriptor.
    bells: Mutex<Vec<Weak<Waker>>>,
    has_bells: AtomicBool,
}

/// Whether a task may come in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Entrance {
    /// It has its place.
    Open,
    /// There is no room.
    Full,
    /// There will never be.
    Closed,
}

impl Gate {
    /// A gate with `limit` places.
    pub fn new(limit: usize) -> Self {
        Self {
            limit,
            taken: AtomicUsize::new(0),
            closed: AtomicBool::new(false),
            waiters: AtomicU32::new(0),
            turn: AtomicU32::new(0),
            bells: Mutex::default(),
            has_bells: AtomicBool::new(false),
        }
    }

    /// Take a place, if there is one.
    pub fn try_enter(&self) -> Entrance {
        if self.closed.load(Ordering::SeqCst) {
            return Entrance::Closed;
        }
        let enter = |taken| (taken < self.limit).then_some(taken + 1);
        match self.taken.fetch_update(Ordering::SeqCst, Ordering::SeqCst, enter) {
            Ok(_) => Entrance::Open,
            Err(_) => Entrance::Full,
        }
    }

    /// Wait until it may be worth trying again: at most `timeout`, or until a signal comes.
    ///
    /// Blocks, so the caller must not hold the GIL.
    pub fn wait(&self, timeout: Option<Duration>) -> Waited {
        let turn = self.turn.load(Ordering::SeqCst);
        self.waiters.fetch_add(1, Ordering::SeqCst);
        let may_enter =
            self.taken.load(Ordering::SeqCst) < self.limit || self.closed.load(Ordering::SeqCst);
        let waited = if may_enter { Waited::Woken } else { futex::wait(&self.turn, turn, timeout) };
        self.waiters.fetch_sub(1, Ordering::SeqCst);
        waited
    }

    /// Take a place for a task that is let in regardless.
    pub fn enter_again(&self) {
        self.taken.fetch_add(1, Ordering::SeqCst);
    }

    /// Give a place back. Nobody is woken by this; see [`Gate::call`].
    pub fn leave(&self) {
        self.taken.fetch_sub(1, Ordering::SeqCst);
    }

    /// Wake as many waiting threads as may come in now. The supervisor calls this once a batch, and so
    /// does a thread that was woken and does not come in.
    pub fn notify(&self) {
        let is_awaited =
            self.waiters.load(Ordering::SeqCst) > 0 || self.has_bells.load(Ordering::SeqCst);
        let room = self.limit.saturating_sub(self.taken.load(Ordering::SeqCst));
        if is_awaited && room > 0 {
            self.wake(u32::try_from(room).unwrap_or(u32::MAX));
        }
    }

    /// Let nobody in any more, and tell those who wait.
    pub fn close(&self) {
        self.closed.store(true, Ordering::SeqCst);
        self.wake(u32::MAX);
    }

    /// Whether nobody is let in any more.
    pub fn is_closed(&self) -> bool {
        self.closed.load(Ordering::SeqCst)
    }

    /// How many tasks wait.
    pub fn taken(&self) -> usize {
        self.taken.load(Ordering::SeqCst)
    }

    /// Have a descriptor told of room, and of the end, as long as the bell lives.
    pub fn add_bell(&self, bell: &Arc<Waker>) {
        self.bells.lock().unwrap_or_else(PoisonError::into_inner).push(Arc::downgrade(bell));
        self.has_bells.store(true, Ordering::SeqCst);
    }

    /// The bound.
    pub fn limit(&self) -> usize {
        self.limit
    }

    fn ring_bells(&self) {
        let mut bells = self.bells.lock().unwrap_or_else(PoisonError::into_inner);
        bells.retain(|bell| bell.upgrade().map(|bell| bell.wake()).is_some());
        self.has_bells.store(!bells.is_empty(), Ordering::SeqCst);
    }

    fn wake(&self, count: u32) {
        if self.has_bells.load(Ordering::SeqCst) {
            self.ring_bells();
        }
        self.turn.fetch_add(1, Ordering::SeqCst);
        futex::wake(&self.turn, count);
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::thread;

    use super::*;

    fn enter_blocking(gate: &Gate) -> Entrance {
        loop {
            match gate.try_enter() {
                Entrance::Full => drop(gate.wait(None)),
                other => return other,
            }
        }
    }

    #[test]
    fn holds_back_and_lets_in() {
        let gate = Arc::new(Gate::new(2));
        let threads: Vec<_> = (0..8)
            .map(|_| {
                let gate = Arc::clone(&gate);
                thread::spawn(move || enter_blocking(&gate))
            })
            .collect();
        for _ in 0..6 {
            while gate.taken() == 0 {
                thread::yield_now();
            }
            assert!(gate.taken() <= 2);
            gate.leave();
            gate.notify();
        }
        assert!(threads.into_iter().all(|thread| thread.join().unwrap() == Entrance::Open));
    }

    #[test]
    fn closing_releases_those_who_wait() {
        let gate = Arc::new(Gate::new(1));
        assert_eq!(gate.try_enter(), Entrance::Open);
        let waiting = {
            let gate = Arc::clone(&gate);
            thread::spawn(move || enter_blocking(&gate))
        };
        gate.close();
        assert_eq!(waiting.join().unwrap(), Entrance::Closed);
    }
}
