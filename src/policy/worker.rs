//! A worker as the policy sees it.
//!
//! `Starting → Ready → Retiring → gone`, with `Stopping` open from everywhere. A ready worker is
//! idle or busy by whether tasks are with it.

use std::collections::VecDeque;
use std::time::Duration;

use crate::ids::TaskId;
use crate::outcome::Cause;
use crate::task::Limits;
use crate::time::Time;

/// Tasks that may be with a worker at the same time.
pub const MAX_WINDOW: usize = 32;

/// Entries for claims in the page that is shared with a worker; tasks take turns in using them.
pub const CLAIM_ENTRIES: u32 = 64;

/// How much work is sent ahead: tasks that together take about this long.
const AHEAD: Duration = Duration::from_millis(1);

/// The window of a worker whose last tasks were short: no longer than 31 µs.
const BRISK_WINDOW: usize = MAX_WINDOW;

/// A task that was sent to a worker and has not come back.
#[derive(Clone, Copy, Debug)]
pub struct Sent {
    /// The task.
    pub task: TaskId,
    /// Its number on this worker, by which it is claimed.
    pub seq: u32,
    /// Its limits, which hold even when nobody waits for its result any more.
    pub limits: Limits,
    /// Whether somebody is to be told when it begins.
    pub watched: bool,
}

/// Where a worker is in its life.
#[derive(Debug)]
pub enum Phase<P> {
    /// Its start was asked for; it takes no task yet.
    Starting {
        /// When the start counts as failed.
        until: Time,
    },
    /// It takes tasks.
    Ready,
    /// It was told to go; its finalizer and exit handlers run.
    Retiring {
        /// When it is killed.
        until: Time,
    },
    /// It is being stopped against its will.
    Stopping(Stop<P>),
}

/// A stop on its way.
#[derive(Debug)]
pub struct Stop<P> {
    /// Why, in the terms of the task that it runs; taken when that task is ended.
    pub cause: Option<Cause<P>>,
    /// The task that the stop is for, if it is for one.
    pub task: Option<TaskId>,
    /// What is being waited for.
    pub step: Step,
    /// When the wait is over.
    pub until: Time,
    /// How often the worker was killed again because it did not go.
    pub kills: u32,
}

/// The steps of a stop, in order.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Step {
    /// The worker writes its stack down.
    Stack,
    /// The worker runs exit handlers.
    ExitHandlers,
    /// A signal that it may survive was sent.
    Signalled,
    /// SIGKILL was sent to all of its tree.
    Killed,
}

/// One worker.
#[derive(Debug)]
pub struct Worker<P> {
    /// Its process id, once it is known.
    pub pid: Option<u32>,
    /// Where it is in its life.
    pub phase: Phase<P>,
    /// What was sent and has not come back, oldest first. Only the first can be running.
    pub queue: VecDeque<Sent>,
    /// The number of the next task.
    pub next_seq: u32,
    /// Since when the first of the queue could have been running.
    pub head_since: Time,
    /// When it was seen that the first of the queue must have begun, where the worker did not come to
    /// writing down when it did.
    pub head_begun_by: Option<Time>,
    /// How often the worker was told of the soft timeout of the first of the queue.
    pub head_interrupts: u32,
    /// When it is told of it the next time.
    pub next_interrupt: Option<Time>,
    /// When the memory of the tree is looked at next.
    pub next_sample: Time,
    /// How many tasks may be with it at the same time.
    pub window: usize,
    /// Tasks that ended here.
    pub tasks_done: u64,
    /// Since when it is idle, for a worker without tasks.
    pub idle_since: Time,
    /// It gets no more tasks and retires when it has none.
    pub draining: bool,
    /// It was to be replaced while it was being started: once it is ready it runs one task, if one waits
    /// that was not submitted after this one.
    pub cleared_after: Option<TaskId>,
    /// It did not begin a task in time: it gets no other until it shows life, and has until then.
    pub suspect_until: Option<Time>,
    /// It stands in the queue of workers that have room.
    pub listed: bool,
}

impl<P> Worker<P> {
    /// A worker whose start is being asked for.
    pub fn starting(now: Time, until: Time) -> Self {
        Self {
            pid: None,
            phase: Phase::Starting { until },
            queue: VecDeque::new(),
            next_seq: 1,
            head_since: now,
            head_begun_by: None,
            head_interrupts: 0,
            next_interrupt: None,
            next_sample: now,
            window: 1,
            tasks_done: 0,
            idle_since: now,
            draining: false,
            cleared_after: None,
            suspect_until: None,
            listed: false,
        }
    }

    /// Whether it can be given tasks at all.
    pub fn takes_tasks(&self) -> bool {
        matches!(self.phase, Phase::Ready) && !self.draining && self.suspect_until.is_none()
    }

    /// Whether it is about to take tasks or does so now.
    pub fn is_live(&self) -> bool {
        matches!(self.phase, Phase::Starting { .. } | Phase::Ready)
            && !self.draining
            && self.suspect_until.is_none()
    }

    /// How many more tasks may be sent, given how many it may run in its life.
    pub fn room(&self, max_tasks: Option<u64>) -> usize {
        // The first of the queue holds its claim even when all between it and the next was taken
        // back, and a task that got the same entry would overwrite it.
        let used = self.queue.front().map_or(0, |head| self.next_seq.wrapping_sub(head.seq));
        let entries = CLAIM_ENTRIES.saturating_sub(used) as usize;
        let window = self.window.saturating_sub(self.queue.len()).min(entries);
        max_tasks.map_or(window, |max| {
            let left = max.saturating_sub(self.tasks_done + self.queue.len() as u64);
            window.min(usize::try_from(left).unwrap_or(usize::MAX))
        })
    }

    /// Whether it runs short tasks and can be relied on for more of them.
    ///
    /// Then it has room, or more than one task: so it is soon noticed when one of them is long.
    pub fn is_brisk(&self, max_tasks: Option<u64>) -> bool {
        let worn = max_tasks.is_some_and(|max| self.tasks_done + self.queue.len() as u64 >= max);
        self.window >= BRISK_WINDOW
            && self.takes_tasks()
            && !worn
            && !self.queue.is_empty()
            && (self.queue.len() > 1 || self.room(max_tasks) > 0)
    }

    /// Learn from one task that took `took`: short ones let the window grow, a long one closes it.
    pub fn adapt_window(&mut self, took: Duration) {
        let fit = AHEAD.as_nanos() / took.as_nanos().max(1);
        let fit = usize::try_from(fit).unwrap_or(MAX_WINDOW).clamp(1, MAX_WINDOW);
        self.window = fit.min(self.window * 2);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn worker() -> Worker<()> {
        Worker::starting(Time::default(), Time::default())
    }

    #[test]
    fn the_window_grows_step_by_step_and_closes_at_once() {
        let mut worker = worker();
        let mut windows = Vec::new();
        for took in [10, 10, 10, 10, 10, 10, 5_000] {
            worker.adapt_window(Duration::from_micros(took));
            windows.push(worker.window);
        }
        assert_eq!(windows, [2, 4, 8, 16, 32, 32, 1]);
    }

    #[test]
    fn no_more_tasks_are_sent_than_it_may_run() {
        let mut worker = worker();
        worker.window = 32;
        worker.tasks_done = 7;
        assert_eq!(worker.room(Some(10)), 3);
        assert_eq!(worker.room(None), 32);
    }
}
