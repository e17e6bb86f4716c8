//! How a process ended.

use std::fmt;

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
