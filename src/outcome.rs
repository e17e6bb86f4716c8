//! How a task ended.
//!
//! The end is tagged, never guessed from a value: an exception object that a task *returns* is a
//! result. `P` is what carries a pickled object; nothing here looks into it.

use std::time::Duration;

use crate::exit_status::ExitStatus;

/// The end of a task.
#[derive(Debug)]
#[must_use]
pub enum Outcome<P> {
    /// The function returned; the payload is its pickled value.
    Returned(P),
    /// The function raised, or its arguments or result could not be pickled; the payload is the
    /// pickled exception with its remote traceback.
    Raised(P),
    /// Something other than the task's own code ended it.
    Failed(Box<Failure<P>>),
    /// Its caller gave up on it.
    Cancelled,
}

/// Why a task ended that neither returned nor raised.
#[derive(Debug)]
pub struct Failure<P> {
    /// What ended it.
    pub cause: Cause<P>,
    /// What is known of the worker that ran it, where one did.
    pub report: Option<DeathReport>,
}

/// What ended a task.
#[derive(Debug)]
pub enum Cause<P> {
    /// It ran longer than it was allowed to.
    TimedOut {
        /// The limit.
        timeout: Duration,
    },
    /// The worker's process tree used more memory than the task was allowed to.
    MemoryExceeded {
        /// The limit.
        limit_bytes: u64,
        /// What was seen.
        used_bytes: u64,
    },
    /// The worker died while the task ran.
    WorkerDied {
        /// How many times the task had been started, this one included.
        attempts: u32,
    },
    /// The worker sent something that is not a frame, and was killed for it.
    Condemned {
        /// What was wrong with it.
        reason: String,
    },
    /// The initializer raised, and the pool was told to treat that as a failure.
    InitializerFailed {
        /// The pickled exception.
        exception: P,
    },
    /// No worker could be started.
    NotStarted {
        /// What went wrong, for how long.
        reason: String,
    },
    /// The supervisor itself failed; the message says how.
    PoolFailed {
        /// What went wrong.
        reason: String,
    },
}

/// What is known of a worker that died.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DeathReport {
    /// Its process id.
    pub pid: u32,
    /// How it ended.
    pub exit: ExitStatus,
    /// Why it could not be killed, if it should have been and lives on.
    pub survives: Option<String>,
    /// Resident memory when it was last seen; the most that there was, if it died by itself.
    pub rss_bytes: Option<u64>,
    /// Whether the kernel killed it for memory; `None` where that can't be known.
    pub oom_killed: Option<bool>,
    /// The Python stack of its threads when it was stopped or died, where one could be had.
    pub stack: Option<String>,
}
