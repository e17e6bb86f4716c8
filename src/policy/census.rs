//! How many workers are what, kept without counting them anew at each event.

use crate::policy::worker::{Phase, Worker};

/// Counts of workers; one worker may be in several.
#[derive(Debug, Default)]
pub(super) struct Census {
    /// Their process exists.
    pub existing: usize,
    /// Starting or ready, and not told to go.
    pub live: usize,
    /// Starting, and will take tasks.
    pub starting: usize,
    /// Starting, and not even a process yet.
    pub unborn: usize,
    /// They have tasks.
    pub busy: usize,
    /// Live, and will be replaced after the tasks that they have.
    pub expiring: usize,
    /// They run short tasks and can be relied on for more.
    pub brisk: usize,
}

impl Census {
    pub fn add<P>(&mut self, worker: &Worker<P>, max_tasks: Option<u64>) {
        for (count, holds) in self.classes(worker, max_tasks) {
            *count += usize::from(holds);
        }
    }

    pub fn remove<P>(&mut self, worker: &Worker<P>, max_tasks: Option<u64>) {
        for (count, holds) in self.classes(worker, max_tasks) {
            *count -= usize::from(holds);
        }
    }

    fn classes<P>(
        &mut self,
        worker: &Worker<P>,
        max_tasks: Option<u64>,
    ) -> [(&mut usize, bool); 7] {
        let expires =
            max_tasks.is_some_and(|max| worker.tasks_done + worker.queue.len() as u64 >= max);
        let starts = worker.is_live() && matches!(worker.phase, Phase::Starting { .. });
        [
            (&mut self.existing, worker.pid.is_some()),
            (&mut self.live, worker.is_live()),
            (&mut self.starting, starts),
            (&mut self.unborn, starts && worker.pid.is_none()),
            (&mut self.busy, !worker.queue.is_empty()),
            (&mut self.expiring, worker.is_live() && expires),
            (&mut self.brisk, worker.is_brisk(max_tasks)),
        ]
    }
}
