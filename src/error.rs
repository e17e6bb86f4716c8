//! The one error type of the core.
//!
//! Messages are lowercase and fit after "failed to".

use std::io;

/// What can go wrong below the policy.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// A system call failed.
    #[error("{call}: {source}")]
    Syscall {
        /// What was attempted, as a phrase.
        call: &'static str,
        /// The operating system's answer.
        #[source]
        source: io::Error,
    },
    /// A peer sent what the protocol does not allow.
    #[error("read a frame: {0}")]
    Protocol(&'static str),
    /// Memory that is shared with a peer is not as it must be.
    #[error("use shared memory: {0}")]
    SharedMemory(&'static str),
    /// There is no memory for so many bytes.
    #[error("allocate {0} bytes")]
    OutOfMemory(usize),
    /// A value is outside what is allowed.
    #[error("{0}")]
    Config(String),
}

/// The result of something below the policy.
pub type Result<T> = std::result::Result<T, Error>;

impl Error {
    /// An error of the system call `call`, from a raw `errno`.
    pub fn errno(call: &'static str, errno: nix::errno::Errno) -> Self {
        Self::Syscall { call, source: errno.into() }
    }

    /// Whether the operating system's answer was `errno`.
    pub fn is(&self, errno: nix::errno::Errno) -> bool {
        matches!(self, Self::Syscall { source, .. } if source.raw_os_error() == Some(errno as i32))
    }

    /// An error of the system call `call`, from the calling thread's `errno`.
    pub fn last(call: &'static str) -> Self {
        Self::Syscall { call, source: io::Error::last_os_error() }
    }
}
