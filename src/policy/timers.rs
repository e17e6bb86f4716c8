//! The instants at which somebody wants to be woken.
//!
//! One instant a key at most: each worker has one timer, armed for the earliest thing that it may
//! need, and decides anew what is due when it fires. So a task with a deadline costs nothing but a
//! comparison, and finished tasks leave nothing behind.

use std::collections::BTreeSet;

use rustc_hash::FxHashMap;

use crate::ids::WorkerId;
use crate::time::Time;

/// Whose timer it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Wake {
    /// Something about this worker is due.
    Worker(WorkerId),
    /// The launcher's back-off is over.
    Start,
}

/// A set of timers over an injected clock.
#[derive(Debug, Default)]
pub struct Timers {
    order: BTreeSet<(Time, Wake)>,
    armed: FxHashMap<Wake, Time>,
}

impl Timers {
    /// Wake `who` at `at`, or earlier if that was asked for before.
    pub fn arm(&mut self, who: Wake, at: Time) {
        match self.armed.get_mut(&who) {
            Some(armed) if *armed <= at => {}
            Some(armed) => {
                self.order.remove(&(*armed, who));
                *armed = at;
                self.order.insert((at, who));
            }
            None => {
                self.armed.insert(who, at);
                self.order.insert((at, who));
            }
        }
    }

    /// Forget the timer of `who`.
    pub fn disarm(&mut self, who: Wake) {
        if let Some(at) = self.armed.remove(&who) {
            self.order.remove(&(at, who));
        }
    }

    /// Whether somebody waits for `who`.
    #[cfg(test)]
    pub fn is_armed(&self, who: Wake) -> bool {
        self.armed.contains_key(&who)
    }

    /// When `who` is woken.
    #[cfg(test)]
    pub fn due(&self, who: Wake) -> Option<Time> {
        self.armed.get(&who).copied()
    }

    /// The earliest instant anybody waits for.
    pub fn next(&self) -> Option<Time> {
        self.order.first().map(|&(at, _)| at)
    }

    /// Take one timer that is due at `now`.
    pub fn pop_due(&mut self, now: Time) -> Option<Wake> {
        let &(at, who) = self.order.first()?;
        if at > now {
            return None;
        }
        self.order.pop_first();
        self.armed.remove(&who);
        Some(who)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const WHO: Wake = Wake::Worker(WorkerId::new(7));

    #[test]
    fn an_earlier_instant_wins() {
        let mut timers = Timers::default();
        timers.arm(WHO, Time::from_nanos(20));
        timers.arm(WHO, Time::from_nanos(10));
        timers.arm(WHO, Time::from_nanos(30));
        assert_eq!(timers.next(), Some(Time::from_nanos(10)));
        assert_eq!(timers.pop_due(Time::from_nanos(10)), Some(WHO));
        assert_eq!(timers.next(), None);
    }

    #[test]
    fn nothing_fires_early() {
        let mut timers = Timers::default();
        timers.arm(Wake::Start, Time::from_nanos(5));
        assert_eq!(timers.pop_due(Time::from_nanos(4)), None);
        timers.disarm(Wake::Start);
        assert_eq!(timers.pop_due(Time::from_nanos(6)), None);
    }
}
