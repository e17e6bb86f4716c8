//! How a task ended.
//!
//! The end is tagged, never guessed from a value: an exception object that a task *returns* is a
//! result.

use std::fmt;
use std::time::Duration;

use crate::wire::payload::Payload;

/// The end of a task.
#[derive(Debug)]
#[must_use]
pub enum Outcome {
    /// The function returned; the payload is its pickled value.
    Returned(Payload),
    /// The function raised, or its arguments or result could not be pickled; the payload is the
    /// pickled exception with its remote traceback.
    Raised(Payload),
    /// Something other than the task's own code ended it.
    Failed(Box<Failure>),
    /// Its caller gave up on it.
    Cancelled,
}

/// Why a task ended that neither returned nor raised.
#[derive(Debug)]
pub struct Failure {
    /// What ended it.
    pub cause: Cause,
    /// What is known of the worker that ran it, where one did.
    pub report: Option<DeathReport>,
}

/// What ended a task.
#[derive(Debug)]
pub enum Cause {
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
        exception: Payload,
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

/// How a process ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[must_use]
pub enum ExitStatus {
    /// It called `exit` with this code.
    Code(i32),
    /// This signal killed it.
    Signal(i32),
    /// It is gone, and nobody could tell how it went.
    Unknown,
}

/// What is known of a worker that died.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DeathReport {
    /// Its process id.
    pub pid: u32,
    /// How it ended.
    pub exit: ExitStatus,
    /// Resident memory when it was last seen; the most that there was, if it died by itself.
    pub rss_bytes: Option<u64>,
    /// Whether the kernel killed it for memory; `None` where that can't be known.
    pub oom_killed: Option<bool>,
    /// The Python stack of its threads when it was stopped or died, where one could be had.
    pub stack: Option<String>,
}

impl ExitStatus {
    /// As multiprocessing has it: a signal is a negative exit code.
    pub const fn exitcode(self) -> Option<i32> {
        match self {
            Self::Code(code) => Some(code),
            Self::Signal(signal) => Some(-signal),
            Self::Unknown => None,
        }
    }
}

impl fmt::Display for ExitStatus {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Code(code) => write!(f, "exit code {code}"),
            Self::Signal(signal) => match nix::sys::signal::Signal::try_from(*signal) {
                Ok(signal) => write!(f, "{signal}"),
                Err(_) => write!(f, "signal {signal}"),
            },
            Self::Unknown => f.write_str("its exit status is unknown"),
        }
    }
}
