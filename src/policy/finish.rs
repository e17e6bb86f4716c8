//! Tasks on their way out: a result came, or the worker did not live to send one.

use crate::ids::{TaskId, WorkerId};
use crate::outcome::{Cause, Failure, Outcome};
use crate::policy::event::{Action, Shutdown};
use crate::policy::timers::Wake;
use crate::policy::worker::{Phase, Sent};
use crate::time::Time;

use super::pool::{Pool, Step, Watch};

impl<B, P> Pool<B, P> {
    pub(super) fn finished(
        &mut self,
        id: WorkerId,
        seq: u32,
        outcome: Outcome<P>,
        recycle: bool,
        step: &mut Step<'_, B, P>,
    ) {
        let Some(worker) = self.workers.get(&id) else {
            return;
        };
        let Some(position) = worker.queue.iter().position(|sent| sent.seq == seq) else {
            return; // It was given up before; its future has ended.
        };
        // A result on the socket and one in the ring may overtake each other, but not a claim.
        let began = step.claims.started(id, seq);
        if position != 0 && began.is_none() {
            let reason = format!("it answered task {seq} without having begun it");
            return self.condemned(id, &reason, step);
        }
        let sent = worker.queue[position];
        if matches!(&worker.phase, Phase::Stopping(stopping) if stopping.task == Some(sent.task)) {
            return; // Too late: the stop that was begun for it decides how it ends.
        }
        let next_began =
            worker.queue.get(position + 1).and_then(|next| step.claims.started(id, next.seq));
        // Where the worker did not say, it ended when the next began, or just now.
        let took = step.claims.took(id, seq);
        let took = took.or_else(|| Some(next_began.unwrap_or(step.now).since(began?)));
        self.tell_begun(sent.task, id, step);
        self.update(id, |worker| {
            worker.queue.remove(position);
            worker.tasks_done += 1;
            worker.draining |= recycle;
            worker.suspect_until = None;
            if let Some(took) = took {
                worker.adapt_window(took);
            }
        });
        self.backoff.reset();
        self.pace.ended();
        self.end(sent.task, outcome, Some(id), step);
        if recycle {
            self.recall(id, 0, step);
        }
        if self.workers.get(&id).is_some_and(|worker| worker.queue.is_empty()) {
            self.became_idle(id, step);
        } else {
            if position == 0 {
                // The next may have begun long before the result of this one was collected.
                self.new_head(id, next_began.unwrap_or(step.now));
            }
            self.enlist(id);
        }
    }

    /// A worker has no task any more.
    pub(super) fn became_idle(&mut self, id: WorkerId, step: &mut Step<'_, B, P>) {
        let max_tasks = self.config.max_tasks_per_child;
        let surplus = self.census.live > self.config.max_workers + self.census.expiring;
        let now = step.now;
        let Some(retire) = self.update(id, |worker| {
            worker.idle_since = now;
            let worn = max_tasks.is_some_and(|max| worker.tasks_done >= max);
            matches!(worker.phase, Phase::Ready) && (worker.draining || worn || surplus)
        }) else {
            return;
        };
        if retire {
            self.retire(id, step);
        } else if self.workers.get(&id).is_some_and(crate::policy::worker::Worker::takes_tasks) {
            self.idle.insert((now, id));
            self.timers.disarm(Wake::Worker(id));
            if self.census.live > self.config.min_workers {
                self.timers.arm(Wake::Worker(id), now + self.config.idle_timeout);
            }
        }
    }

    /// A worker is lost: what it had not begun is run elsewhere, what it had begun has failed.
    ///
    /// Returns whether it had begun anything.
    pub(super) fn lose_tasks(
        &mut self,
        id: WorkerId,
        reason: Option<&str>,
        step: &mut Step<'_, B, P>,
    ) -> bool {
        self.recall(id, 0, step);
        let begun = self.update(id, |worker| std::mem::take(&mut worker.queue)).unwrap_or_default();
        for sent in &begun {
            self.lose_begun(sent.task, id, reason, step);
        }
        !begun.is_empty()
    }

    fn lose_begun(
        &mut self,
        task: TaskId,
        id: WorkerId,
        reason: Option<&str>,
        step: &mut Step<'_, B, P>,
    ) {
        self.tell_begun(task, id, step);
        let Some(record) = self.tasks.get_mut(&task) else {
            return;
        };
        record.deaths += 1;
        let (deaths, retries) = (record.deaths, record.spec.limits.retries);
        let closing = self.shutdown.is_some_and(|mode| mode >= Shutdown::CancelWaiting);
        if deaths <= retries && !closing {
            if record.watch == Watch::Told {
                record.watch = Watch::Wanted;
            }
            step.log(
                log::Level::Info,
                format!(
                    "task {} lost its worker and is tried again ({deaths} of {retries})",
                    task.get()
                ),
            );
            self.put_back(task, step);
            return;
        }
        let cause = match reason {
            Some(reason) => Cause::Condemned { reason: reason.into() },
            None => Cause::WorkerDied { attempts: deaths },
        };
        self.end(task, Outcome::Failed(Box::new(Failure { cause, report: None })), Some(id), step);
    }

    /// A task has begun: tell who watches it, if that was not told before.
    pub(super) fn tell_begun(&mut self, task: TaskId, id: WorkerId, step: &mut Step<'_, B, P>) {
        if let Some(record) = self.tasks.get_mut(&task)
            && record.watch == Watch::Wanted
        {
            record.watch = Watch::Told;
            step.act(Action::Began { task, worker: id });
        }
    }

    /// A task became the first of its worker's queue, so it may be running since then.
    pub(super) fn new_head(&mut self, id: WorkerId, since: Time) {
        let Some(first_look) = self.update(id, |worker| {
            worker.head_since = since;
            worker.head_begun_by = None;
            worker.head_interrupts = 0;
            worker.next_interrupt = None;
            worker.next_sample = since + super::due::FIRST_SAMPLE;
            worker.first_look()
        }) else {
            return;
        };
        if let Some(at) = first_look {
            self.timers.arm(Wake::Worker(id), at);
        }
    }

    /// A task was sent behind another: soon it must be seen whether that one is long.
    pub(super) fn arm_ahead(&mut self, id: WorkerId, sent: &Sent, now: Time) {
        let mut at = now + super::due::AHEAD_LIMIT;
        if sent.watched {
            at = now + super::due::WATCH_INTERVAL;
        }
        self.timers.arm(Wake::Worker(id), at);
    }
}
