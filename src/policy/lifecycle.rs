//! Workers from their start to their exit.

use std::time::Duration;

use crate::exit_status::ExitStatus;
use crate::ids::WorkerId;
use crate::outcome::{Cause, Failure, Outcome};
use crate::policy::event::Action;
use crate::policy::timers::Wake;
use crate::policy::worker::{Phase, Worker};
use crate::time::Time;

use super::due::NUDGE_INTERVAL;
use super::pool::{Pool, Step};
use super::stopping::name;

/// How long a worker that has done nothing yet is not told from one that could not be started.
const YOUTH: Duration = Duration::from_secs(1);

impl<B, P> Pool<B, P> {
    pub(super) fn start_worker(&mut self, step: &mut Step<'_, B, P>) {
        let id = WorkerId::new(self.next_worker);
        self.next_worker += 1;
        let until = step.now + self.config.start_timeout;
        let worker = Worker::starting(step.now, until);
        self.census.add(&worker, self.config.max_tasks_per_child);
        self.workers.insert(id, worker);
        self.timers.arm(Wake::Worker(id), until.min(step.now + NUDGE_INTERVAL));
        step.act(Action::Start(id));
    }

    pub(super) fn forked(&mut self, id: WorkerId, pid: u32, step: &mut Step<'_, B, P>) {
        if self.update(id, |worker| worker.pid = Some(pid)).is_some() {
            self.counters.worker_processes_created += 1;
            step.log(log::Level::Debug, format!("worker {pid} was started"));
        }
        if self.is_killed(id) {
            // It was given up while its process was on the way.
            step.act(Action::Kill(id));
        }
    }

    pub(super) fn ready(&mut self, id: WorkerId, step: &mut Step<'_, B, P>) {
        if !self.is_starting(id) {
            return;
        }
        let cleared_after = self.update(id, |worker| {
            worker.phase = Phase::Ready;
            worker.draining |= worker.cleared_after.is_some();
            worker.cleared_after
        });
        if let Some(newest) = cleared_after.flatten()
            && self.census.busy < self.config.max_workers
            && self.backlog.first().is_some_and(|first| first <= newest)
            && let Some(task) = self.backlog.pop()
        {
            // Were all workers replaced faster than they start, nothing would ever run otherwise.
            self.update(id, |worker| worker.idle_since = step.now);
            self.send(task, id, step);
        } else {
            self.became_idle(id, step);
        }
    }

    pub(super) fn alive(&mut self, id: WorkerId, step: &mut Step<'_, B, P>) {
        let recovered = self
            .update(id, |worker| worker.suspect_until.take().is_some() && worker.queue.is_empty());
        if recovered == Some(true) {
            self.dismiss_helper(id, step);
            self.became_idle(id, step);
        }
    }

    /// Let the worker go that was started while this one showed no life, now that it is one too many.
    ///
    /// It is the newest: what the others have loaded and connected stays, and so do their processes. Where
    /// the newest has taken over more than this one has done in its life, it is this one that goes.
    fn dismiss_helper(&mut self, recovered: WorkerId, step: &mut Step<'_, B, P>) {
        if self.census.live <= self.config.max_workers + self.census.expiring {
            return;
        }
        let live = self.workers.iter().filter(|(_, worker)| worker.is_live());
        let Some(newest) = live.map(|(&id, _)| id).max() else {
            return;
        };
        let helper = &self.workers[&newest];
        let taken_over = helper.tasks_done + helper.queue.len() as u64;
        if taken_over > self.workers[&recovered].tasks_done {
            return;
        }
        if self.idle.contains(&(self.workers[&newest].idle_since, newest)) {
            self.retire(newest, step);
        } else {
            self.update(newest, |worker| worker.draining = true);
            self.recall(newest, 1, step);
        }
    }

    pub(super) fn initializer_failed(
        &mut self,
        id: WorkerId,
        exception: P,
        step: &mut Step<'_, B, P>,
    ) {
        if !self.is_starting(id) {
            return;
        }
        let until = step.now + self.config.retire_time();
        let Some(pid) = self.update(id, |worker| {
            worker.phase = Phase::Retiring { until };
            worker.pid
        }) else {
            return;
        };
        self.timers.disarm(Wake::Worker(id));
        self.timers.arm(Wake::Worker(id), until);
        step.log(log::Level::Warn, format!("the initializer raised in {}, which goes", name(pid)));
        if self.config.fail_on_initializer_error
            && let Some(task) = self.backlog.pop()
        {
            let failure = Failure { cause: Cause::InitializerFailed { exception }, report: None };
            self.end(task, Outcome::Failed(Box::new(failure)), Some(id), step);
        }
        self.start_went_wrong("its initializer raised", step);
    }

    pub(super) fn start_failed(&mut self, id: WorkerId, reason: &str, step: &mut Step<'_, B, P>) {
        let was_starting = self.is_starting(id);
        self.remove(id, step);
        if was_starting {
            step.log(log::Level::Warn, format!("a worker could not be started: {reason}"));
            self.start_went_wrong(reason, step);
        }
    }

    pub(super) fn start_timed_out(&mut self, id: WorkerId, step: &mut Step<'_, B, P>) {
        let limit = self.config.start_timeout.as_secs_f64();
        let pid = self.workers.get(&id).and_then(|worker| worker.pid);
        step.log(
            log::Level::Warn,
            format!("{} was not ready after {limit} s and is killed", name(pid)),
        );
        if pid.is_some() {
            self.kill_now(id, step);
            self.start_went_wrong("a worker was not ready in time", step);
        } else {
            self.start_failed(id, "no process came of it in time", step);
        }
    }

    pub(super) fn exited(&mut self, id: WorkerId, exit: ExitStatus, step: &mut Step<'_, B, P>) {
        let Some(worker) = self.workers.get(&id) else {
            return;
        };
        let pid = worker.pid;
        let was_starting = matches!(worker.phase, Phase::Starting { .. });
        let was_ready = matches!(worker.phase, Phase::Ready);
        let young = self.is_young(id, step.now);
        // Where it went before it was killed, the stop had still been decided.
        self.end_victim(id, step);
        let useless = !self.lose_tasks(id, None, step) && young;
        self.remove(id, step);
        let when = if was_starting { "before it was ready" } else { "before it did anything" };
        if useless {
            let reason = format!("{} died {when}: {exit}", name(pid));
            step.log(log::Level::Warn, reason.clone());
            self.start_went_wrong(&reason, step);
        } else {
            let level = if was_ready { log::Level::Warn } else { log::Level::Debug };
            step.log(level, format!("{} is gone: {exit}", name(pid)));
        }
    }

    fn is_starting(&self, id: WorkerId) -> bool {
        self.workers.get(&id).is_some_and(|worker| matches!(worker.phase, Phase::Starting { .. }))
    }

    /// Whether a worker is starting, or only just has, so that its loss looks like that of a start.
    pub(super) fn is_young(&self, id: WorkerId, now: Time) -> bool {
        self.workers.get(&id).is_some_and(|worker| match worker.phase {
            Phase::Starting { .. } => true,
            Phase::Ready => worker.tasks_done == 0 && now.since(worker.idle_since) < YOUTH,
            Phase::Retiring { .. } | Phase::Stopping(_) => false,
        })
    }

    /// Tell a worker to go in peace.
    pub(super) fn retire(&mut self, id: WorkerId, step: &mut Step<'_, B, P>) {
        self.leave_idle(id);
        let until = step.now + self.config.retire_time();
        self.update(id, |worker| worker.phase = Phase::Retiring { until });
        self.timers.disarm(Wake::Worker(id));
        self.timers.arm(Wake::Worker(id), until);
        step.act(Action::Retire(id));
    }

    pub(super) fn retire_timed_out(&mut self, id: WorkerId, step: &mut Step<'_, B, P>) {
        let pid = self.workers.get(&id).and_then(|worker| worker.pid);
        step.log(log::Level::Warn, format!("{} did not go when told to and is killed", name(pid)));
        self.kill_now(id, step);
    }

    /// Replace all workers: the idle at once, the busy after the task that they run.
    pub(super) fn clear_workers(&mut self, step: &mut Step<'_, B, P>) {
        let mut ids: Vec<WorkerId> = self.workers.keys().copied().collect();
        ids.sort_unstable();
        let leaving = |worker: &&Worker<P>| worker.draining && worker.cleared_after.is_some();
        let mut leaving = self.workers.values().filter(leaving).count();
        for id in ids {
            self.clear_worker(id, &mut leaving, step);
        }
    }

    fn clear_worker(&mut self, id: WorkerId, leaving: &mut usize, step: &mut Step<'_, B, P>) {
        let worker = &self.workers[&id];
        match worker.phase {
            Phase::Starting { .. } => {
                // Its successor is started now, or when it is ready where too many start already.
                let now = !worker.draining && *leaving < self.config.max_workers;
                *leaving += usize::from(now);
                let newest = self.newest;
                self.update(id, |worker| {
                    worker.draining |= now;
                    worker.cleared_after = Some(newest);
                });
            }
            Phase::Ready => {
                self.leave_idle(id);
                self.update(id, |worker| worker.draining = true);
                self.recall(id, 1, step);
                if self.workers[&id].queue.is_empty() {
                    self.retire(id, step);
                }
            }
            Phase::Retiring { .. } | Phase::Stopping(_) => {}
        }
    }

    pub(super) fn remove(&mut self, id: WorkerId, step: &mut Step<'_, B, P>) {
        self.leave_idle(id);
        self.timers.disarm(Wake::Worker(id));
        if let Some(worker) = self.workers.remove(&id) {
            if worker.listed {
                self.roomy.retain(|&other| other != id);
            }
            self.census.remove(&worker, self.config.max_tasks_per_child);
            step.act(Action::Forget(id));
        }
    }
}
