//! How many workers there are.

use crate::outcome::{Cause, Failure, Outcome};
use crate::policy::timers::Wake;

use super::pool::{Pool, Step};

impl<B, P> Pool<B, P> {
    /// Start workers where there are fewer than the settings or the backlog ask for.
    pub(super) fn adjust_size(&mut self, step: &mut Step<'_, B, P>) {
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
    pub(super) fn start_went_wrong(&mut self, reason: &str, step: &mut Step<'_, B, P>) {
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
        step: &mut Step<'_, B, P>,
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
}
