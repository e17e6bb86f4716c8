//! What the supervisor and a zygote say to each other, in messages of their own.

use serde::{Deserialize, Serialize};

use crate::error::{Error, Result};
use crate::exit_status::ExitStatus;
use crate::ids::WorkerId;

/// Supervisor to zygote.
#[derive(Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Request {
    /// End when this process does; with it goes a pidfd of it. Comes first.
    Watch,
    /// End, and kill what is left.
    Exit,
    /// Fork a worker; with it go the descriptors of [`WorkerFds`](crate::child::zygote::WorkerFds).
    Fork {
        /// The worker.
        worker: u64,
    },
    /// Send a signal to a worker, since the supervisor can't: it has no descriptor of the process, or
    /// may not signal it. SIGKILL takes the whole tree.
    Signal {
        /// The worker.
        worker: u64,
        /// The signal.
        signal: i32,
    },
}

/// Zygote to supervisor.
#[derive(Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Report {
    /// It is ready to fork.
    Ready,
    /// A worker's process exists; with it goes a pidfd.
    Forked {
        /// The worker.
        worker: u64,
        /// Its process.
        pid: u32,
    },
    /// A worker's process could not be made.
    ForkFailed {
        /// The worker.
        worker: u64,
        /// What the operating system said.
        reason: String,
    },
    /// A worker could not be signalled.
    SignalRefused {
        /// The worker.
        worker: u64,
        /// What the operating system said.
        reason: String,
    },
    /// A worker's process is gone.
    Exited {
        /// The worker.
        worker: u64,
        /// How it went.
        exit: Exit,
        /// The most resident memory that it had.
        peak_rss_bytes: u64,
        /// It may have left processes behind, of whose end [`Cleared`](Self::Cleared) tells.
        leaves: bool,
    },
    /// What such a worker has left is killed.
    Cleared {
        /// The worker.
        worker: u64,
    },
}

/// [`ExitStatus`] on the wire.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Exit {
    /// It called `exit` with this code.
    Code(i32),
    /// This signal killed it.
    Signal(i32),
    /// Nobody could tell.
    Unknown,
}

impl From<ExitStatus> for Exit {
    fn from(status: ExitStatus) -> Self {
        match status {
            ExitStatus::Code(code) => Self::Code(code),
            ExitStatus::Signal(signal) => Self::Signal(signal),
            ExitStatus::Unknown => Self::Unknown,
        }
    }
}

impl From<Exit> for ExitStatus {
    fn from(exit: Exit) -> Self {
        match exit {
            Exit::Code(code) => Self::Code(code),
            Exit::Signal(signal) => Self::Signal(signal),
            Exit::Unknown => Self::Unknown,
        }
    }
}

impl Request {
    /// The request to fork this worker.
    pub fn fork(worker: WorkerId) -> Self {
        Self::Fork { worker: worker.get() }
    }
}

/// Makes a worker write the stacks of all its threads into its page.
///
/// Real-time signals from the upper end, where applications are least likely to have theirs.
pub fn stack_signal() -> i32 {
    libc::SIGRTMAX() - 2
}

/// Makes a worker look whether the task that it runs is to be interrupted.
pub fn soft_timeout_signal() -> i32 {
    libc::SIGRTMAX() - 3
}

/// The bytes of a message.
pub fn encode(message: &impl Serialize) -> Result<Vec<u8>> {
    postcard::to_stdvec(message).map_err(|_| Error::Protocol("can't be encoded"))
}

/// Read the bytes of a message.
pub fn decode<'a, M: Deserialize<'a>>(bytes: &'a [u8]) -> Result<M> {
    postcard::from_bytes(bytes).map_err(|_| Error::Protocol("not a message of this protocol"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn messages_survive_the_wire() {
        let reports = [
            Report::Ready,
            Report::Forked { worker: 3, pid: 4242 },
            Report::ForkFailed { worker: 1, reason: "no more processes".into() },
            Report::SignalRefused { worker: 1, reason: "not permitted".into() },
            Report::Exited {
                worker: 9,
                exit: Exit::Signal(9),
                peak_rss_bytes: 1 << 40,
                leaves: true,
            },
            Report::Cleared { worker: 9 },
        ];
        for report in reports {
            assert_eq!(decode::<Report>(&encode(&report).unwrap()).unwrap(), report);
        }
    }
}
