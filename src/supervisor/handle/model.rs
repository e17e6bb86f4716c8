//! A model of the handle's protocol, in which every interleaving is tried.
//!
//! Each step of a thread is one atomic operation of the real code, and uses the same pure functions
//! of the word. Timeouts, signals and spurious wake-ups come at every point where they can.

use std::collections::HashSet;

use super::{Phase, Taker, Word};

/// Where a thread of the model is. Each step of the model is one atomic operation.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum At {
    /// The supervisor, before `deliver` and with the outcome in the slot.
    Delivering,
    /// The supervisor, about to queue the handle for the completer.
    Queueing,
    /// The completer, waiting for something in its queue; it never gives up.
    Completing,
    /// A thread in `result()`: before `enter`, asleep or about to, and back.
    Asking(Taker),
    Sleeping(Taker),
    Leaving(Taker),
    /// Before `take`; the flag says whether it will wait again or go away.
    Looking {
        by: Taker,
        again: bool,
    },
    /// Before `prefer_completer`, as `add_done_callback` does.
    Registering,
    /// Before `settle` without an outcome, as `cancel` does: after its `take`.
    Cancelling,
    /// With the taken outcome in hand.
    Settling {
        by: Taker,
        again: bool,
    },
    Gone,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct Model {
    word: Word,
    threads: Vec<At>,
    /// Wake-ups that were sent and not yet seen: those asleep may go on.
    awake: Vec<bool>,
    /// The handle is in the completer's queue.
    queued: bool,
    /// Ending it a second time does nothing.
    ended: bool,
    /// How often somebody got hold of the one outcome.
    outcomes_used: u32,
}

impl Model {
    fn settle(&mut self) {
        self.ended = true;
        self.word = Word(self.word.0 | Word::SETTLED);
        self.awake.fill(true);
    }

    /// Where a thread goes that has done its part: the completer, out of the callback that waited.
    fn afterwards(by: Taker) -> At {
        match by {
            Taker::Completer => At::Completing,
            Taker::Caller => At::Gone,
        }
    }

    /// Everything that thread `index` may do next.
    fn steps(&self, index: usize) -> Vec<Self> {
        let mut next = self.clone();
        let mut found = Vec::new();
        match self.threads[index] {
            At::Delivering => {
                if let Some(delivered) = self.word.deliver() {
                    next.word = delivered;
                    next.threads[index] =
                        if delivered.is_for_completer() { At::Queueing } else { At::Gone };
                    let asleep: Vec<_> = (0..self.threads.len())
                        .filter(|&other| matches!(self.threads[other], At::Sleeping(_)))
                        .collect();
                    match delivered.threads_to_wake() {
                        // The kernel wakes whichever it likes.
                        1 if !asleep.is_empty() => {
                            for &other in &asleep {
                                let mut woken = next.clone();
                                woken.awake[other] = true;
                                found.push(woken);
                            }
                        }
                        0 | 1 => found.push(next),
                        _ => {
                            next.awake.fill(true);
                            found.push(next);
                        }
                    }
                } else {
                    next.threads[index] = At::Gone;
                    found.push(next);
                }
            }
            At::Queueing => {
                next.queued = true;
                next.threads[index] = At::Gone;
                found.push(next);
            }
            At::Completing => {
                if self.queued {
                    next.queued = false;
                    next.threads[index] = At::Looking { by: Taker::Completer, again: false };
                    found.push(next);
                }
            }
            At::Asking(by) => {
                next.threads[index] = if let Some(entered) = self.word.enter(by) {
                    next.word = entered;
                    next.awake[index] = false;
                    At::Sleeping(by)
                } else if self.word.take(by).is_some() {
                    At::Looking { by, again: true }
                } else {
                    At::Gone
                };
                found.push(next);
            }
            At::Sleeping(by) => {
                // A timeout or a signal can come at any time, and is told from a wake-up only
                // by what is done afterwards.
                next.threads[index] = At::Leaving(by);
                found.push(next);
            }
            At::Leaving(by) => {
                next.word.0 -= Word::WAITER;
                for again in [false, true] {
                    next.threads[index] = At::Looking { by, again };
                    found.push(next.clone());
                }
            }
            At::Looking { by, again } => {
                next.threads[index] = match self.word.take(by) {
                    Some(taken) => {
                        next.word = taken;
                        next.outcomes_used += 1;
                        At::Settling { by, again }
                    }
                    None if again => At::Asking(by),
                    None => Self::afterwards(by),
                };
                found.push(next);
            }
            At::Settling { by, again } => {
                if !self.ended {
                    next.settle();
                }
                next.threads[index] = if again { At::Asking(by) } else { Self::afterwards(by) };
                found.push(next);
            }
            At::Registering => {
                next.word.0 |= Word::PREFERS_COMPLETER;
                next.threads[index] = At::Looking { by: Taker::Caller, again: false };
                found.push(next);
            }
            At::Cancelling => {
                if !self.ended {
                    next.settle();
                }
                next.threads[index] = At::Gone;
                found.push(next);
            }
            At::Gone => {}
        }
        found
    }

    /// The outcome is out, so nobody may be left asleep: neither for ever nor until a timeout.
    fn check(&self) {
        assert!(self.outcomes_used <= 1, "two have the outcome: {self:?}");
        let on_its_way = self.threads.iter().enumerate().any(|(index, at)| match *at {
            At::Gone => false,
            At::Completing => self.queued,
            At::Sleeping(by) => self.awake[index] || !self.word.is_worth_waiting(by),
            _ => true,
        });
        if !on_its_way {
            assert!(self.ended, "the outcome was lost: {self:?}");
            assert_eq!(self.word.phase(), Phase::Settled);
            assert_eq!(self.word.waiters(), 0, "somebody sleeps on: {self:?}");
        }
    }
}

fn explore(threads: &[At]) -> usize {
    let start = Model {
        word: Word(0),
        threads: threads.to_vec(),
        awake: vec![false; threads.len()],
        queued: false,
        ended: false,
        outcomes_used: 0,
    };
    let mut seen = HashSet::from([start.clone()]);
    let mut pending = vec![start];
    while let Some(model) = pending.pop() {
        model.check();
        for index in 0..threads.len() {
            for next in model.steps(index) {
                if seen.insert(next.clone()) {
                    pending.push(next);
                }
            }
        }
    }
    seen.len()
}

#[test]
fn every_interleaving_settles_once_and_wakes_everybody() {
    let caller = At::Asking(Taker::Caller);
    let others = [caller, caller, At::Registering, At::Cancelling];
    // The completer waits for its queue, or for the future in a callback of another one.
    for completer in [At::Completing, At::Asking(Taker::Completer)] {
        for mask in 0..16 {
            let mut threads = vec![At::Delivering, completer];
            threads.extend((0..4).filter(|bit| mask >> bit & 1 == 1).map(|bit| others[bit]));
            assert!(explore(&threads) > 1);
        }
        assert!(explore(&[At::Delivering, completer, caller, caller, caller]) > 100);
    }
}
