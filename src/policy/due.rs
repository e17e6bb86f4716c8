//! What may be due about a worker: the one place that decides what a fired timer means.

use std::time::Duration;

use crate::ids::WorkerId;
use crate::outcome::Cause;
use crate::policy::event::Action;
use crate::policy::timers::Wake;
use crate::policy::worker::{Phase, Sent, Worker};
use crate::time::Time;

use super::pool::{Pool, Step};

/// How long a task may run before those behind it are taken back.
pub(super) const AHEAD_LIMIT: Duration = Duration::from_millis(2);

/// How often it is looked whether a watched task has begun.
pub(super) const WATCH_INTERVAL: Duration = Duration::from_micros(500);

/// How often whoever is to make a worker's process is told to go on.
pub(super) const NUDGE_INTERVAL: Duration = Duration::from_secs(1);

/// How long a worker has to begin the task it was sent before the task goes elsewhere.
const BEGIN_LIMIT: Duration = Duration::from_millis(100);

/// How much longer a worker that did not begin a task has to show any life.
const SUSPECT_LIMIT: Duration = Duration::from_secs(5);

/// How often it is looked whether a successor is still waited for, at most.
const SUCCESSOR_INTERVAL: Duration = Duration::from_millis(10);

/// From the start of a task to the first look at its memory, and between looks under a limit.
pub(super) const FIRST_SAMPLE: Duration = Duration::from_millis(10);
const LIMIT_INTERVAL: Duration = Duration::from_millis(20);

/// After how long a worker is told once more of a soft timeout, at first; then it doubles. A signal that
/// comes between Python's last look for signals and a system call that blocks is not seen.
const INTERRUPT_AGAIN: Duration = Duration::from_millis(20);

/// How often it is told at most.
const INTERRUPTS: u32 = 6;

/// Between looks at the memory of a task without a limit, for the report on its worker's death.
const REPORT_INTERVAL: Duration = Duration::from_secs(1);

impl<P> Worker<P> {
    /// When the first of the queue must be looked at for the first time.
    pub(super) fn first_look(&self) -> Option<Time> {
        let head = self.queue.front()?;
        let limits = [head.limits.timeout, head.limits.soft_timeout];
        let memory = head.limits.memory_limit_bytes.map(|_| FIRST_SAMPLE);
        let ahead = (self.queue.len() > 1).then_some(AHEAD_LIMIT);
        let watch = head.watched.then_some(WATCH_INTERVAL);
        let others = [memory, ahead, watch, Some(BEGIN_LIMIT)];
        limits.into_iter().chain(others).flatten().min().map(|after| self.head_since + after)
    }
}

impl<B, P> Pool<B, P> {
    /// Do what is due about a worker, and arm its timer for what comes next.
    pub(super) fn look(&mut self, id: WorkerId, step: &mut Step<'_, B, P>) {
        let Some(worker) = self.workers.get(&id) else {
            return;
        };
        match &worker.phase {
            Phase::Starting { until } => {
                let until = *until;
                if until <= step.now {
                    self.start_timed_out(id, step);
                } else if worker.pid.is_none() {
                    step.act(Action::Nudge(id));
                    self.timers.arm(Wake::Worker(id), until.min(step.now + NUDGE_INTERVAL));
                } else {
                    self.timers.arm(Wake::Worker(id), until);
                }
            }
            Phase::Retiring { until } => {
                let until = *until;
                if until <= step.now {
                    self.retire_timed_out(id, step);
                } else {
                    self.timers.arm(Wake::Worker(id), until);
                }
            }
            Phase::Stopping(stopping) => {
                let until = stopping.until;
                if until <= step.now {
                    self.advance_stop(id, step);
                } else {
                    self.timers.arm(Wake::Worker(id), until);
                }
            }
            Phase::Ready => match worker.queue.front().copied() {
                Some(head) => self.look_at_head(id, head, step),
                None => self.look_at_idle(id, step),
            },
        }
    }

    fn look_at_idle(&mut self, id: WorkerId, step: &mut Step<'_, B, P>) {
        let worker = &self.workers[&id];
        if let Some(until) = worker.suspect_until {
            if until <= step.now {
                self.stop_stuck(id, step);
            } else {
                self.timers.arm(Wake::Worker(id), until);
            }
            return;
        }
        if self.census.live - self.census.expiring <= self.config.min_workers {
            return;
        }
        let until = worker.idle_since + self.config.idle_timeout;
        if until > step.now {
            self.timers.arm(Wake::Worker(id), until);
        } else if !self.backlog.is_empty() {
            // It is the successor of a worker in its last task.
            self.timers
                .arm(Wake::Worker(id), step.now + self.config.idle_timeout.max(SUCCESSOR_INTERVAL));
        } else {
            self.retire(id, step);
        }
    }

    fn look_at_head(&mut self, id: WorkerId, head: Sent, step: &mut Step<'_, B, P>) {
        let next = self.workers[&id].queue.get(1).map(|next| next.seq);
        if next.is_some_and(|next| step.claims.started(id, next).is_some()) {
            // The worker is past the first already, and saves its doorbell for more results.
            return self.collect_soon(id, step);
        }
        match step.claims.started(id, head.seq).or(self.workers[&id].head_begun_by) {
            Some(began) => self.look_at_running(id, head, began, step),
            None => self.look_at_unbegun(id, head, step),
        }
    }

    fn look_at_unbegun(&mut self, id: WorkerId, head: Sent, step: &mut Step<'_, B, P>) {
        let since = self.workers[&id].head_since;
        if step.now < since + BEGIN_LIMIT {
            let again = head.watched.then(|| step.now + WATCH_INTERVAL);
            let limits = [head.limits.timeout, head.limits.soft_timeout];
            // The deadline counts from the start, which has not come: look again when it may have.
            let due =
                limits.into_iter().flatten().map(|limit| step.now + limit.max(WATCH_INTERVAL));
            let at =
                due.chain(again).chain([since + BEGIN_LIMIT]).min().unwrap_or(since + BEGIN_LIMIT);
            self.timers.arm(Wake::Worker(id), at);
            return;
        }
        // The worker does not get to it: it is stopped, or the machine is overloaded. Somebody
        // else may run the task; this worker gets no other until it shows life.
        let until = step.now + SUSPECT_LIMIT;
        self.update(id, |worker| {
            worker.suspect_until = Some(until);
            worker.window = 1;
        });
        if self.recall(id, 0, step) {
            self.timers.arm(Wake::Worker(id), until);
            if self.workers.get(&id).is_some_and(|worker| worker.tasks_done == 0) {
                // Where no worker ever begins, no more may be started each time that is noticed.
                self.backoff.failed(step.now);
            }
        } else {
            // It began in this very moment, or did not come to writing down when.
            let now = step.now;
            self.update(id, |worker| {
                worker.suspect_until = None;
                worker.head_begun_by = Some(now);
            });
            let began = step.claims.started(id, head.seq).unwrap_or(now);
            self.look_at_running(id, head, began, step);
        }
    }

    /// The worker is past the first of its queue: the result waits, and nobody may say so.
    pub(super) fn collect_soon(&mut self, id: WorkerId, step: &mut Step<'_, B, P>) {
        step.act(Action::Collect(id));
        self.timers.arm(Wake::Worker(id), step.now + WATCH_INTERVAL);
    }

    fn look_at_running(
        &mut self,
        id: WorkerId,
        head: Sent,
        began: Time,
        step: &mut Step<'_, B, P>,
    ) {
        let now = step.now;
        if head.watched {
            self.update(id, |worker| {
                if let Some(first) = worker.queue.front_mut() {
                    first.watched = false;
                }
            });
            self.tell_begun(head.task, id, step);
        }
        if let Some(timeout) = head.limits.timeout.filter(|&timeout| began + timeout <= now) {
            return self.stop_for(id, head, Cause::TimedOut { timeout }, step);
        }
        let worker = &self.workers[&id];
        let mut next = [head.limits.timeout.map(|timeout| began + timeout), None, None];
        let has_more = worker.queue.len() > 1;
        let mut next_sample = worker.next_sample;
        next[1] = self.interrupt(id, head, began, step);
        if next_sample <= now {
            let limit_bytes = head.limits.memory_limit_bytes;
            step.act(Action::Sample { worker: id, seq: head.seq, limit_bytes });
            // Where a task has scribbled over the page, its result may lie there untold.
            step.act(Action::Collect(id));
            next_sample =
                now + if limit_bytes.is_some() { LIMIT_INTERVAL } else { REPORT_INTERVAL };
        } else if head.limits.memory_limit_bytes.is_none() {
            next_sample = next_sample.max(began + BEGIN_LIMIT);
        }
        if has_more {
            if began + AHEAD_LIMIT <= now {
                self.update(id, |worker| worker.window = 1);
                self.pace.was_long();
                if !self.recall(id, 1, step) {
                    self.collect_soon(id, step);
                }
            } else {
                next[2] = Some(began + AHEAD_LIMIT);
            }
        }
        self.update(id, |worker| {
            worker.next_sample = next_sample;
        });
        let at = next.into_iter().flatten().fold(next_sample, Time::min);
        self.timers.arm(Wake::Worker(id), at.max(now));
    }

    /// Have the soft timeout raised if it is due. Returns when to look again.
    fn interrupt(
        &mut self,
        id: WorkerId,
        head: Sent,
        began: Time,
        step: &mut Step<'_, B, P>,
    ) -> Option<Time> {
        let soft_timeout = head.limits.soft_timeout?;
        let (seq, now) = (head.seq, step.now);
        let told = self.workers.get(&id)?.head_interrupts;
        let due = self.workers.get(&id)?.next_interrupt.unwrap_or(began + soft_timeout);
        if told >= INTERRUPTS {
            return None;
        }
        if due > now {
            return Some(due);
        }
        step.act(if told == 0 {
            Action::Interrupt { worker: id, seq }
        } else {
            Action::InterruptAgain { worker: id, seq }
        });
        let again = now + INTERRUPT_AGAIN * (1 << told);
        self.update(id, |worker| {
            worker.head_interrupts += 1;
            worker.next_interrupt = Some(again);
        });
        (told + 1 < INTERRUPTS).then_some(again)
    }

    pub(super) fn memory_sampled(
        &mut self,
        id: WorkerId,
        seq: u32,
        used_bytes: u64,
        step: &mut Step<'_, B, P>,
    ) {
        let Some(worker) = self.workers.get(&id) else {
            return;
        };
        let Some(&head) = worker.queue.front().filter(|head| head.seq == seq) else {
            return;
        };
        if !matches!(worker.phase, Phase::Ready) {
            return;
        }
        if let Some(limit_bytes) =
            head.limits.memory_limit_bytes.filter(|&limit| used_bytes > limit)
        {
            self.stop_for(id, head, Cause::MemoryExceeded { limit_bytes, used_bytes }, step);
        }
    }
}
