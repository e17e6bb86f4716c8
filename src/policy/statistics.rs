//! What a pool has done, counted by the policy as it happens.

/// Counters since the pool was made, and the workers as they are.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Statistics {
    /// Tasks that were submitted.
    pub tasks_received: u64,
    /// Tasks that were given to a worker, each counted once.
    pub tasks_launched: u64,
    /// Tasks that raised, timed out or lost their worker, each counted once.
    pub tasks_failed: u64,
    /// Worker processes that were ever started.
    pub worker_processes_created: u64,
    /// The most workers that had a task at the same time.
    pub max_workers_busy_concurrently: usize,
    /// Worker processes that exist.
    pub worker_processes_still_alive: usize,
    /// Workers that wait for a task.
    pub worker_processes_idle: usize,
    /// Workers that have a task.
    pub worker_processes_busy: usize,
}
