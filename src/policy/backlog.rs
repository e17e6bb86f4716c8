//! The tasks that wait for a worker.
//!
//! A queue for each priority, first in, first out within one. A task that comes back (its worker
//! died before it began, or it was taken back) returns to its old place. Cancelling leaves a
//! tombstone, so that a hundred thousand cancels cost no more than a hundred thousand steps; the
//! tombstones never outnumber the living by more than a constant.

use std::collections::{BTreeMap, VecDeque};

use crate::ids::TaskId;
use crate::task::Priority;

/// Tombstones a lane may hold beside as many living tasks before it is swept.
const SWEEP_SLACK: usize = 64;

/// A bounded memory of waiting tasks; the bound on the tasks themselves is the gate's.
#[derive(Debug, Default)]
pub struct Backlog {
    lanes: BTreeMap<Priority, Lane>,
    len: usize,
}

#[derive(Debug, Default)]
struct Lane {
    // Sorted by id; `false` marks a task that was cancelled.
    queue: VecDeque<(TaskId, bool)>,
    dead: usize,
}

impl Backlog {
    /// How many tasks wait.
    pub fn len(&self) -> usize {
        self.len
    }

    /// Whether no task waits.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Put a task at its place: behind all earlier ones of its priority.
    pub fn insert(&mut self, priority: Priority, id: TaskId) {
        let lane = self.lanes.entry(priority).or_default();
        match lane.queue.back() {
            Some(&(last, _)) if last >= id => {
                let at = lane.queue.partition_point(|&(other, _)| other < id);
                match lane.queue.get_mut(at) {
                    // It was taken out from here, and comes to life again.
                    Some(entry) if entry.0 == id => {
                        entry.1 = true;
                        lane.dead -= 1;
                    }
                    _ => lane.queue.insert(at, (id, true)),
                }
            }
            _ => lane.queue.push_back((id, true)),
        }
        self.len += 1;
    }

    /// The next task, which stays.
    pub fn first(&self) -> Option<TaskId> {
        let (_, lane) = self.lanes.first_key_value()?;
        lane.queue.front().map(|&(id, _)| id)
    }

    /// Take the next task: the oldest of the highest priority.
    pub fn pop(&mut self) -> Option<TaskId> {
        let mut lane = self.lanes.first_entry()?;
        let id = loop {
            let (id, alive) = lane.get_mut().queue.pop_front()?;
            if alive {
                break id;
            }
            lane.get_mut().dead -= 1;
        };
        lane.get_mut().trim();
        if lane.get().queue.is_empty() {
            lane.remove();
        }
        self.len -= 1;
        Some(id)
    }

    /// Take a certain task out. Returns whether it was waiting.
    pub fn remove(&mut self, priority: Priority, id: TaskId) -> bool {
        let Some(lane) = self.lanes.get_mut(&priority) else {
            return false;
        };
        let at = lane.queue.partition_point(|&(other, _)| other < id);
        match lane.queue.get_mut(at) {
            Some(entry) if entry.0 == id && entry.1 => entry.1 = false,
            _ => return false,
        }
        lane.dead += 1;
        lane.trim();
        if lane.queue.is_empty() {
            self.lanes.remove(&priority);
        }
        self.len -= 1;
        true
    }
}

impl Lane {
    /// Keep the front alive and the tombstones few.
    fn trim(&mut self) {
        while self.queue.front().is_some_and(|&(_, alive)| !alive) {
            self.queue.pop_front();
            self.dead -= 1;
        }
        if self.dead > self.queue.len() / 2 + SWEEP_SLACK {
            self.queue.retain(|&(_, alive)| alive);
            self.dead = 0;
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_returning_task_takes_its_old_place() {
        let mut backlog = Backlog::default();
        for id in [1, 2, 3] {
            backlog.insert(Priority(0), TaskId::from(id));
        }
        assert_eq!(backlog.pop(), Some(TaskId::from(1)));
        backlog.insert(Priority(0), TaskId::from(1));
        assert_eq!(backlog.pop(), Some(TaskId::from(1)));
    }

    #[test]
    fn many_cancels_leave_little_behind() {
        let mut backlog = Backlog::default();
        for id in 0..100_000 {
            backlog.insert(Priority(0), TaskId::from(id));
        }
        for id in (1..100_000).rev() {
            assert!(backlog.remove(Priority(0), TaskId::from(id)));
        }
        assert_eq!(backlog.len(), 1);
        assert!(backlog.lanes[&Priority(0)].queue.len() <= 2 + 2 * SWEEP_SLACK);
    }

    proptest! {
        /// Whatever is put in and taken out, the order is that of a sorted set.
        #[test]
        fn behaves_as_a_sorted_set(steps in prop::collection::vec((0u8..3, 0u32..3, 0u64..40), 0..400)) {
            let mut backlog = Backlog::default();
            let mut model = BTreeSet::new();
            for (step, priority, id) in steps {
                let key = (Priority(priority), TaskId::from(id * 3 + u64::from(priority)));
                match step {
                    0 => if model.insert(key) { backlog.insert(key.0, key.1) },
                    1 => prop_assert_eq!(backlog.remove(key.0, key.1), model.remove(&key)),
                    _ => prop_assert_eq!(backlog.pop(), model.pop_first().map(|(_, id)| id)),
                }
                prop_assert_eq!(backlog.len(), model.len());
            }
        }
    }
}
