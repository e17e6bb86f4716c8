//! How many workers there are, and how the pool ends.

use std::time::Duration;

use crate::outcome::{Cause, Failure, Outcome};
use crate::policy::event::{Action, Shutdown};
use crate::policy::timers::Wake;
use crate::policy::worker::{Phase, Sent, WorkerId};
use crate::task::TaskId;
use crate::time::Time;

use super::{Pool, Step};

const FIRST_DELAY: Duration = Duration::from_millis(10);
const LAST_DELAY: Duration = Duration::from_secs(5);

/// After so many failed starts in a row, over at least so long, waiting tasks are failed.
const GIVE_UP_AFTER: u32 = 3;
const GIVE_UP_TIME: Duration = Duration::from_secs(1);

/// Holds starts back while workers do not become useful.
#[derive(Debug, Default)]
pub(super) struct Backoff {
    failures: u32,
    since: Time,
    until: Option<Time>,
}

impl Backoff {
    pub fn failed(&mut self, now: Time) {
        if self.holds(now).is_some() {
            return; // It was started together with one that has failed already.
        }
        if self.failures == 0 {
            self.since = now;
        }
        let delay = FIRST_DELAY.saturating_mul(1 << self.failures.min(16)).min(LAST_DELAY);
        self.failures += 1;
        self.until = Some(now + delay);
    }

    pub fn reset(&mut self) {
        if self.failures != 0 {
            *self = Self::default();
        }
    }

    /// Until when no start may be tried, if not now.
    fn holds(&self, now: Time) -> Option<Time> {
        self.until.filter(|&until| until > now)
    }

    fn is_hopeless(&self, now: Time) -> bool {
        self.failures >= GIVE_UP_AFTER && now.since(self.since) >= GIVE_UP_TIME
    }
}

impl<B> Pool<B> {
    /// Start workers where there are fewer than the settings or the backlog ask for.
    pub(super) fn adjust_size(&mut self, step: &mut Step<'_, B>) {
        if self.shutdown.is_some() && self.backlog.is_empty() {
            return;
        }
        self.owed = match self.shutdown {
            None => self.owed.min(self.config.max_workers.saturating_sub(self.census.live)),
            Some(_) => 0,
        };
        let floor = match self.shutdown {
            None => self.config.min_workers.saturating_sub(self.census.live),
            Some(_) => 0,
        };
        let wanted = floor.max(self.demand()).max(self.owed);
        if wanted == 0 {
            return;
        }
        if let Some(until) = self.backoff.holds(step.now) {
            self.timers.arm(Wake::Start, until);
            return;
        }
        // Where one could not be started, no more than one is risked next.
        let at_once = if self.backoff.failures > 0 { 1 } else { self.config.starts_at_once };
        for _ in 0..wanted.min(at_once.saturating_sub(self.census.unborn)) {
            self.owed = self.owed.saturating_sub(1);
            self.start_worker(step);
        }
    }

    /// How many more workers the waiting tasks could use.
    ///
    /// A worker that is in its last task does not count, so that its successor is there when it goes.
    fn demand(&self) -> usize {
        if self.backlog.is_empty() || self.few_suffice() {
            return 0;
        }
        let unserved = self.backlog.len().saturating_sub(self.census.starting + self.idle.len());
        let lasting = self.census.live - self.census.expiring;
        unserved.min(self.config.max_workers.saturating_sub(lasting))
    }

    /// A start came to nothing: hold the next one back, and fail those who wait for nothing else.
    pub(super) fn start_went_wrong(&mut self, reason: &str, step: &mut Step<'_, B>) {
        self.backoff.failed(step.now);
        // From now on only what is needed is started.
        self.owed = 0;
        let ready = self.census.live > self.census.starting;
        if ready || !self.backoff.is_hopeless(step.now) {
            return;
        }
        step.log(
            log::Level::Error,
            format!(
                "no worker could be started {} times in a row; waiting tasks are failed",
                self.backoff.failures
            ),
        );
        let seconds = step.now.since(self.backoff.since).as_secs_f64();
        let reason = format!(
            "{} starts in {seconds:.1} s came to nothing, the last because {reason}",
            self.backoff.failures
        );
        while let Some(task) = self.backlog.pop() {
            let failure =
                Failure { cause: Cause::NotStarted { reason: reason.clone() }, report: None };
            self.end(task, Outcome::Failed(Box::new(failure)), None, step);
        }
    }

    pub(super) fn resize(
        &mut self,
        max_workers: usize,
        min_workers: usize,
        step: &mut Step<'_, B>,
    ) {
        self.owed += max_workers.saturating_sub(self.config.max_workers);
        self.config.max_workers = max_workers.max(1);
        self.config.min_workers = min_workers.min(self.config.max_workers);
        for &(since, id) in &self.idle {
            self.timers.arm(Wake::Worker(id), since + self.config.idle_timeout);
        }
        while self.census.live > self.config.max_workers + self.census.expiring {
            let Some(&(_, id)) = self.idle.first() else {
                break;
            };
            self.retire(id, step);
        }
    }

    pub(super) fn shut_down(&mut self, mode: Shutdown, step: &mut Step<'_, B>) {
        if self.shutdown >= Some(mode) {
            return;
        }
        self.shutdown = Some(mode);
        if mode == Shutdown::Drain {
            return;
        }
        // A worker that is being started has its task already, as far as its caller can tell.
        let begun = if mode == Shutdown::CancelWaiting { self.census.starting } else { 0 };
        let kept: Vec<TaskId> = (0..begun).map_while(|_| self.backlog.pop()).collect();
        while let Some(task) = self.backlog.pop() {
            self.end(task, Outcome::Cancelled, None, step);
        }
        for task in kept {
            let priority = self.tasks[&task].spec.priority;
            self.backlog.insert(priority, task);
        }
        let mut ids: Vec<WorkerId> = self.workers.keys().copied().collect();
        ids.sort_unstable();
        for id in ids {
            self.take_back(id, 1, step);
            match mode {
                Shutdown::Drain | Shutdown::CancelWaiting => {}
                Shutdown::Terminate => self.cancel_running(id, libc::SIGTERM, step),
                Shutdown::CancelAll | Shutdown::Kill => {
                    self.cancel_running(id, libc::SIGKILL, step);
                }
            }
            if mode == Shutdown::Kill {
                self.kill_now(id, step);
            }
        }
    }

    fn cancel_running(&mut self, id: WorkerId, signal: i32, step: &mut Step<'_, B>) {
        let Some(worker) = self.workers.get(&id) else {
            return;
        };
        let running: Vec<Sent> = worker.queue.iter().copied().collect();
        for sent in running {
            self.cancel(sent.task, Some(signal), step);
            // Its caller may have given it up long before, and let it run.
            self.stop_task(id, sent.seq, signal, step);
        }
    }

    /// When the pool is closed and nothing is left to do, send the workers home.
    pub(super) fn wind_down(&mut self, step: &mut Step<'_, B>) {
        if self.shutdown.is_none() || self.terminated || !self.tasks.is_empty() {
            return;
        }
        if self.census.busy == 0 {
            let mut ids: Vec<WorkerId> = self.workers.keys().copied().collect();
            ids.sort_unstable();
            for id in ids {
                self.send_home(id, step);
            }
        }
        if self.workers.is_empty() {
            self.terminated = true;
            // Nobody is started any more, so no back-off need be waited for.
            self.timers.disarm(Wake::Start);
            step.act(Action::Terminated);
        }
    }

    fn send_home(&mut self, id: WorkerId, step: &mut Step<'_, B>) {
        match self.workers[&id].phase {
            // It has run nothing, so nothing in it needs an ending.
            Phase::Starting { .. } => self.kill_now(id, step),
            Phase::Ready => self.retire(id, step),
            Phase::Retiring { .. } | Phase::Stopping(_) => {}
        }
    }
}
