//! The validated settings of a pool.
//!
//! Python hands in numbers of any kind; what reaches the policy has passed [`PoolConfig::validate`],
//! so that no later code has to doubt it.

use std::time::Duration;

use crate::error::{Error, Result};

/// How many grace periods a retiring worker has for its finalizer and its exit handlers.
const RETIRE_GRACE_PERIODS: u32 = 10;

/// What it has at least: no grace before a kill does not mean that it may not go in peace.
const LEAST_RETIRE_TIME: Duration = Duration::from_secs(1);

/// A submit takes 4 µs at least, so eight workers keep up with one process when each of its tasks takes 31 µs.
const ENOUGH_BRISK: usize = 8;

/// The settings that the policy reads.
#[derive(Clone, Debug)]
pub struct PoolConfig {
    /// The most workers that run tasks at the same time.
    pub max_workers: usize,
    /// So many workers that run short tasks do for all that can be submitted.
    pub enough_brisk: usize,
    /// Workers that may be on their way to a process at the same time: more gain nothing, and where they
    /// fail all of them do.
    pub starts_at_once: usize,
    /// How many workers an idle pool keeps.
    pub min_workers: usize,
    /// After how many tasks a worker is replaced.
    pub max_tasks_per_child: Option<u64>,
    /// How long a worker above `min_workers` may be idle.
    pub idle_timeout: Duration,
    /// How long exit handlers may run before a kill.
    pub kill_grace_period: Duration,
    /// How long a worker may take from its start to its readiness, initializer included.
    pub start_timeout: Duration,
    /// Whether a task that waits is failed when an initializer raises.
    pub fail_on_initializer_error: bool,
}

impl PoolConfig {
    /// Check what one setting says of another.
    ///
    /// # Errors
    ///
    /// [`Error::Config`] with a sentence that names the argument.
    pub fn validate(self) -> Result<Self> {
        if self.max_workers == 0 {
            return Err(Error::Config("max_workers must be greater than 0".into()));
        }
        if self.starts_at_once == 0 {
            return Err(Error::Config("starts_at_once must be greater than 0".into()));
        }
        if self.max_tasks_per_child == Some(0) {
            return Err(Error::Config("max_tasks_per_child must be >= 1".into()));
        }
        Ok(Self { min_workers: self.min_workers.min(self.max_workers), ..self })
    }
}

impl PoolConfig {
    /// How long a retiring worker has for its finalizer and its exit handlers.
    pub fn retire_time(&self) -> Duration {
        self.kill_grace_period.saturating_mul(RETIRE_GRACE_PERIODS).max(LEAST_RETIRE_TIME)
    }
}

impl Default for PoolConfig {
    fn default() -> Self {
        Self {
            max_workers: 1,
            enough_brisk: ENOUGH_BRISK,
            starts_at_once: 32,
            min_workers: 1,
            max_tasks_per_child: None,
            idle_timeout: Duration::from_millis(200),
            kill_grace_period: Duration::from_secs(1),
            start_timeout: Duration::from_secs(300),
            fail_on_initializer_error: false,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn refuses_a_pool_without_workers() {
        let error = PoolConfig { max_workers: 0, ..PoolConfig::default() }.validate().unwrap_err();
        assert_eq!(error.to_string(), "max_workers must be greater than 0");
    }

    #[test]
    fn keeps_no_more_workers_than_it_may_have() {
        let config = PoolConfig { max_workers: 3, min_workers: 10, ..PoolConfig::default() };
        assert_eq!(config.validate().unwrap().min_workers, 3);
    }
}
