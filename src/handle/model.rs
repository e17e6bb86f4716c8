//! A model of the handle's protocol, in which every interleaving is tried.
//!
//! Each step of a thread is one atomic operation of the real code, and uses the same pure functions
//! of the word. Timeouts, signals and spurious wake-ups come at every point where they can.

use std::collections::HashSet;

use super::{Phase, Word};

/// Where a thread of the model is. Each step of the model is one atomic operation.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum At {
    /// The supervisor, before `deliver` and with the outcome in the slot.
    Delivering,
    /// The completer, with an outcome to settle with.
    Completing,
    /// A thread in `result()`: before `enter`, asleep or about to, and back.
    Asking,
    Sleeping,
    Leaving,
    /// Before `take`; the flag says whether it will wait again or go away.
    Looking {
        again: bool,
    },
    /// Before `prefer_completer`, as `add_done_callback` does.
    Registering,
    /// Before `settle` without an outcome, as `cancel` does: after its `take`.
    Cancelling,
    /// With the taken outcome in hand.
    Settling {
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

    /// Everything that thread `index` may do next.
    fn steps(&self, index: usize) -> Vec<Self> {
        let mut next = self.clone();
        let mut found = Vec::new();
        match self.threads[index] {
            At::Delivering => {
                if let Some(offered) = self.word.offer() {
                    next.word = offered;
                    next.threads[index] = At::Gone;
                    let asleep: Vec<_> = (0..self.threads.len())
                        .filter(|&other| self.threads[other] == At::Sleeping)
                        .collect();
                    // The kernel wakes whichever it likes, and none if none sleeps.
                    for &other in &asleep {
                        let mut woken = next.clone();
                        woken.awake[other] = true;
                        found.push(woken);
                    }
                    if asleep.is_empty() {
                        found.push(next);
                    }
                } else {
                    let open = self.word.phase() == Phase::Open;
                    next.threads[index] = if open { At::Completing } else { At::Gone };
                    found.push(next);
                }
            }
            At::Completing => {
                next.outcomes_used += 1;
                if !self.ended {
                    next.settle();
                }
                next.threads[index] = At::Gone;
                found.push(next);
            }
            At::Asking => {
                next.threads[index] = if let Some(entered) = self.word.enter() {
                    next.word = entered;
                    next.awake[index] = false;
                    At::Sleeping
                } else if self.word.phase() == Phase::Offered {
                    At::Looking { again: true }
                } else {
                    At::Gone
                };
                found.push(next);
            }
            At::Sleeping => {
                // A timeout or a signal can come at any time, and is told from a wake-up only
                // by what is done afterwards.
                next.threads[index] = At::Leaving;
                found.push(next);
            }
            At::Leaving => {
                next.word.0 -= Word::WAITER;
                for again in [false, true] {
                    next.threads[index] = At::Looking { again };
                    found.push(next.clone());
                }
            }
            At::Looking { again } => {
                next.threads[index] = match self.word.take() {
                    Some(taken) => {
                        next.word = taken;
                        next.outcomes_used += 1;
                        At::Settling { again }
                    }
                    None if again => At::Asking,
                    None => At::Gone,
                };
                found.push(next);
            }
            At::Settling { again } => {
                if !self.ended {
                    next.settle();
                }
                next.threads[index] = if again { At::Asking } else { At::Gone };
                found.push(next);
            }
            At::Registering => {
                next.word.0 |= Word::PREFERS_COMPLETER;
                next.threads[index] = At::Looking { again: false };
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
        let on_its_way = self.threads.iter().enumerate().any(|(index, at)| match at {
            At::Gone => false,
            At::Sleeping => self.awake[index] || !self.word.is_worth_waiting(),
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
    let others = [At::Asking, At::Asking, At::Registering, At::Cancelling];
    for mask in 0..16 {
        let mut threads = vec![At::Delivering];
        threads.extend((0..4).filter(|bit| mask >> bit & 1 == 1).map(|bit| others[bit]));
        assert!(explore(&threads) > 1);
    }
    assert!(explore(&[At::Delivering, At::Asking, At::Asking, At::Asking]) > 100);
}
