//! Tasks on their way in: submitted, chosen, sent, taken back, cancelled.

use crate::ids::{TaskId, WorkerId};
use crate::outcome::{Cause, Failure, Outcome};
use crate::policy::event::{Action, Shutdown};
use crate::policy::timers::Wake;
use crate::policy::worker::Sent;
use crate::task::TaskSpec;

use super::pool::{Pool, Record, Step, Watch};

impl<B, P> Pool<B, P> {
    pub(super) fn submit(&mut self, spec: TaskSpec, baggage: B, step: &mut Step<'_, B, P>) {
        self.counters.tasks_received += 1;
        self.newest = self.newest.max(spec.id);
        let watch = if spec.watched { Watch::Wanted } else { Watch::Unwanted };
        let record = Record { spec, baggage, place: None, deaths: 0, launched: false, watch };
        self.tasks.insert(spec.id, record);
        let is_closed = self.shutdown.is_some_and(|mode| mode >= Shutdown::CancelWaiting);
        if self.terminated || is_closed || spec.cancelled_early {
            // In the first two cases it was on its way while the pool was being closed.
            self.end(spec.id, Outcome::Cancelled, None, step);
        } else if let Some(timeout) = spec.limits.timeout.filter(std::time::Duration::is_zero) {
            let failure = Failure { cause: Cause::TimedOut { timeout }, report: None };
            self.end(spec.id, Outcome::Failed(Box::new(failure)), None, step);
        } else {
            self.backlog.insert(spec.priority, spec.id);
        }
    }

    /// Send waiting tasks as long as somebody has room for one.
    pub(super) fn dispatch(&mut self, step: &mut Step<'_, B, P>) {
        while !self.backlog.is_empty() {
            let Some(worker) = self.choose_worker() else {
                return;
            };
            let Some(task) = self.backlog.pop() else {
                return;
            };
            self.send(task, worker, step);
        }
    }

    /// The worker for the next task: an idle one if there is and it may gain something, else the next that
    /// has room.
    fn choose_worker(&mut self) -> Option<WorkerId> {
        if self.census.busy < self.config.max_workers
            && !self.few_suffice()
            && let Some(&(_, id)) = self.idle.last()
        {
            return Some(id);
        }
        if self.census.busy > self.config.max_workers {
            return None;
        }
        while let Some(id) = self.roomy.pop_front() {
            let Some(worker) = self.workers.get_mut(&id) else {
                continue;
            };
            worker.listed = false;
            let has_room = worker.takes_tasks() && worker.room(self.config.max_tasks_per_child) > 0;
            if has_room && !worker.queue.is_empty() {
                return Some(id);
            }
        }
        None
    }

    pub(super) fn send(&mut self, task: TaskId, id: WorkerId, step: &mut Step<'_, B, P>) {
        let Some(record) = self.tasks.get_mut(&task) else {
            return;
        };
        let limits = record.spec.limits;
        let watched = record.watch == Watch::Wanted;
        let Some((sent, first)) = self.update(id, |worker| {
            let sent = Sent { task, seq: worker.next_seq, limits, watched };
            worker.next_seq = worker.next_seq.wrapping_add(1);
            let first = worker.queue.is_empty();
            worker.queue.push_back(sent);
            (sent, first)
        }) else {
            return;
        };
        if let Some(record) = self.tasks.get_mut(&task) {
            record.place = Some((id, sent.seq));
            if !std::mem::replace(&mut record.launched, true) {
                self.counters.tasks_launched += 1;
            }
        }
        step.act(Action::Send { worker: id, task, seq: sent.seq });
        if first {
            self.leave_idle(id);
            self.new_head(id, step.now);
            let busy = &mut self.counters.max_workers_busy_concurrently;
            *busy = self.census.busy.max(*busy);
        } else {
            self.arm_ahead(id, &sent, step.now);
        }
        self.enlist(id);
    }

    /// Note that a busy worker may have room.
    pub(super) fn enlist(&mut self, id: WorkerId) {
        let max_tasks = self.config.max_tasks_per_child;
        if let Some(worker) = self.workers.get_mut(&id)
            && !worker.listed
            && worker.takes_tasks()
            && !worker.queue.is_empty()
            && worker.room(max_tasks) > 0
        {
            worker.listed = true;
            self.roomy.push_back(id);
        }
    }

    /// Take a worker out of the idle ones, if it is there.
    pub(super) fn leave_idle(&mut self, id: WorkerId) {
        if let Some(worker) = self.workers.get(&id) {
            self.idle.remove(&(worker.idle_since, id));
        }
    }

    /// Take back what a worker has not begun, from position `from` of its queue on.
    ///
    /// Returns whether all of it could be taken back.
    pub(super) fn recall(&mut self, id: WorkerId, from: usize, step: &mut Step<'_, B, P>) -> bool {
        let Some(worker) = self.workers.get(&id) else {
            return true;
        };
        let sent: Vec<Sent> = worker.queue.iter().skip(from).copied().collect();
        // From the back: what the worker would begin last goes first, so that it can't begin
        // a later task while an earlier one is being taken back.
        let revoked = sent.iter().rev().take_while(|sent| step.claims.revoke(id, sent.seq)).count();
        self.update(id, |worker| {
            worker.queue.truncate(worker.queue.len() - revoked);
        });
        for sent in &sent[sent.len() - revoked..] {
            self.put_back(sent.task, step);
        }
        self.enlist(id);
        revoked == sent.len()
    }

    /// Return a task that had not begun, or may begin again, to its place among the waiting.
    pub(super) fn put_back(&mut self, task: TaskId, step: &mut Step<'_, B, P>) {
        let Some(record) = self.tasks.get_mut(&task) else {
            return;
        };
        record.place = None;
        let priority = record.spec.priority;
        if self.shutdown.is_some_and(|mode| mode >= Shutdown::CancelWaiting) {
            self.end(task, Outcome::Cancelled, None, step);
        } else {
            self.backlog.insert(priority, task);
            step.act(Action::Recalled(task));
        }
    }

    pub(super) fn cancel(&mut self, task: TaskId, kill: Option<i32>, step: &mut Step<'_, B, P>) {
        let Some(record) = self.tasks.get(&task) else {
            if let Some(signal) = kill {
                self.stop_abandoned(task, signal, step);
            }
            return;
        };
        let Some((id, seq)) = record.place else {
            self.backlog.remove(record.spec.priority, task);
            self.end(task, Outcome::Cancelled, None, step);
            return;
        };
        let position = self
            .workers
            .get(&id)
            .and_then(|worker| worker.queue.iter().position(|sent| sent.seq == seq));
        if let Some(position) = position {
            if step.claims.revoke(id, seq) {
                self.update(id, |worker| worker.queue.remove(position));
                self.after_removal(id, position, step);
            } else if let Some(signal) = kill {
                // The caller has let go of it before it is killed, so that nothing but
                // the cancellation can reach it.
                self.end(task, Outcome::Cancelled, Some(id), step);
                self.stop_task(id, seq, signal, step);
                return;
            }
        }
        self.end(task, Outcome::Cancelled, Some(id), step);
    }

    /// Stop a task that was cancelled before, and may still run.
    fn stop_abandoned(&mut self, task: TaskId, signal: i32, step: &mut Step<'_, B, P>) {
        let found = self.workers.iter().find_map(|(&id, worker)| {
            let sent = worker.queue.iter().find(|sent| sent.task == task)?;
            Some((id, sent.seq))
        });
        if let Some((id, seq)) = found {
            self.stop_task(id, seq, signal, step);
        }
    }

    /// Put a worker right after a task that it had not begun was taken out of its queue.
    fn after_removal(&mut self, id: WorkerId, position: usize, step: &mut Step<'_, B, P>) {
        let empty = self.workers.get(&id).is_some_and(|worker| worker.queue.is_empty());
        if empty {
            self.became_idle(id, step);
        } else {
            if position == 0 {
                self.new_head(id, step.now);
            }
            self.enlist(id);
        }
    }

    pub(super) fn watch_start(&mut self, task: TaskId, step: &mut Step<'_, B, P>) {
        let Some(record) = self.tasks.get_mut(&task) else {
            return;
        };
        let place = record.place;
        if let Some((id, seq)) = place
            && step.claims.started(id, seq).is_some()
        {
            record.watch = Watch::Told;
            step.act(Action::Began { task, worker: id });
            return;
        }
        record.watch = Watch::Wanted;
        if let Some((id, seq)) = place {
            self.update(id, |worker| {
                if let Some(sent) = worker.queue.iter_mut().find(|sent| sent.seq == seq) {
                    sent.watched = true;
                }
            });
            self.timers.arm(Wake::Worker(id), step.now);
            self.wake(step);
        }
    }
}
