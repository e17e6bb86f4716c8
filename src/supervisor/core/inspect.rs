//! What is shown of the pool: its counters, its workers and its descriptors.

use std::os::fd::{AsFd, AsRawFd};
use std::sync::Arc;

use crate::policy::statistics::Statistics;
use crate::policy::worker::Phase;
use crate::supervisor::messages::WorkerReport;
use crate::supervisor::zygotes::Zygote;
use crate::sys::{clock, memory};

use super::Core;

impl<S: Send + Sync + 'static> Core<S> {
    pub(in crate::supervisor) fn statistics(&self) -> Statistics {
        self.pool.statistics()
    }

    pub(in crate::supervisor) fn count_unreadable(&mut self) {
        self.pool.count_unreadable();
    }

    pub(in crate::supervisor) fn reset_statistics(&mut self) {
        self.pool.reset_statistics();
    }

    pub(in crate::supervisor) fn workers(&mut self) -> Vec<WorkerReport<S>> {
        let now = clock::now();
        let mut seen: Vec<_> = self
            .pool
            .workers()
            .map(|(id, worker)| {
                let state = match worker.phase {
                    Phase::Starting { .. } => "starting",
                    Phase::Ready if worker.queue.is_empty() => "idle",
                    Phase::Ready => "busy",
                    Phase::Retiring { .. } => "retiring",
                    Phase::Stopping(_) => "stopping",
                };
                let head =
                    worker.queue.front().map(|head| (head.task, now.since(worker.head_since)));
                (id, worker.pid, state, head, worker.tasks_done)
            })
            .collect();
        seen.sort_by_key(|&(id, ..)| id);
        seen.into_iter()
            .map(|(_, pid, state, head, tasks_done)| WorkerReport {
                pid,
                state,
                task: head.and_then(|(task, since)| {
                    let handle = Arc::clone(&self.pool.baggage(task)?.handle);
                    Some((handle, since.as_secs_f64()))
                }),
                tasks_done,
                rss_bytes: pid.and_then(memory::rss_bytes),
            })
            .collect()
    }

    pub(in crate::supervisor) fn descriptors(&self) -> Vec<i32> {
        let mut fds = vec![
            self.waker.as_fd().as_raw_fd(),
            self.timer.as_fd().as_raw_fd(),
            self.poller.as_fd().as_raw_fd(),
            self.parent.as_fd().as_raw_fd(),
        ];
        for remote in self.remotes.0.values() {
            fds.extend(remote.descriptors());
        }
        fds.extend(self.zygotes.values().flat_map(Zygote::descriptors));
        fds
    }
}
