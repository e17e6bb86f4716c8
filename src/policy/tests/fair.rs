//! Schedules that lead somewhere: one in which everybody does their part, and one in which nobody
//! does more than die when killed.

use crate::ids::WorkerId;
use crate::policy::event::Event;
use crate::time::Time;

use super::sim::Sim;

/// Rounds after which a pool that still has something to do counts as stuck.
const ROUNDS: usize = 20_000;

/// What workers do of themselves.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Manners {
    /// All that they should.
    Good,
    /// Nothing, but they die when killed.
    Stubborn,
    /// Nothing at all, as in an uninterruptible sleep.
    Undead,
}

impl Sim {
    /// Go on until nothing is left to do. Time only passes when nothing else happens.
    pub fn settle(&mut self, manners: Manners) {
        self.world.race = 0;
        for _ in 0..ROUNDS {
            let moves = self.alive().into_iter().filter(|&id| self.go_on(id, manners)).count();
            if moves > 0 {
                continue;
            }
            let Some(at) = self.pool.next_timer() else {
                return;
            };
            self.wake_at(at);
        }
        panic!("the pool does not come to rest");
    }

    /// Settle, and say how long it took to terminate.
    pub fn settle_from(&mut self, from: Time, manners: Manners) -> std::time::Duration {
        self.settle(manners);
        assert!(self.terminated, "the pool is not terminated");
        self.since(from)
    }

    fn go_on(&mut self, id: WorkerId, manners: Manners) -> bool {
        let Some(process) = self.world.processes.get(&id) else {
            return false;
        };
        if manners == Manners::Undead {
            return false;
        }
        if !process.forked && (manners == Manners::Good || process.gone) {
            self.fork(id);
            return true;
        }
        if process.forked && (process.killed || process.gone) {
            self.reap(id);
            return true;
        }
        if manners != Manners::Good {
            return false;
        }
        if process.retiring {
            self.reap(id);
        } else if !process.ready {
            self.boot(id);
        } else if process.wants_stack {
            self.answer_stack(id);
        } else if process.wants_exit_handlers {
            self.answer_exit_handlers(id);
        } else if !process.ring.is_empty() {
            self.collect(id);
        } else if process.skipped {
            self.say_alive(id);
        } else {
            return self.world.step(id, true);
        }
        true
    }

    pub fn answer_stack(&mut self, id: WorkerId) {
        self.world.process(id).wants_stack = false;
        self.feed(Event::StackDone(id));
    }

    pub fn answer_exit_handlers(&mut self, id: WorkerId) {
        self.world.process(id).wants_exit_handlers = false;
        self.feed(Event::ExitHandlersDone(id));
    }

    pub fn say_alive(&mut self, id: WorkerId) {
        self.world.process(id).skipped = false;
        self.feed(Event::Alive(id));
    }
}
