//! The operating system: one small file a thing, and no policy.
//!
//! # Platform contract
//!
//! Linux 5.4 or newer on a 64-bit processor. What newer kernels do better is used where it is found
//! and has a fallback; each file names the version. The rest holds everywhere in here:
//!
//! - Nothing blocks, unless its documentation says so. The supervisor's thread may call everything
//!   that doesn't block, and [`poller::Poller::wait`].
//! - A function is async-signal-safe only where its documentation says so.
//! - Every file descriptor made or received is close-on-exec.
//! - What another process can write to is only touched through atomics and validated before it is
//!   believed: a scribbling peer makes for wrong data or an error, never for undefined behaviour.
//! - A pid is only ever signalled while something proves that it still means the same process.
//! - Nothing here knows Python, or what a worker or a task is for.

#[cfg(not(all(target_os = "linux", target_pointer_width = "64")))]
compile_error!("deadpool needs a 64-bit Linux");

pub mod bell;
pub mod clock;
mod descriptor;
pub mod fork_guard;
pub mod futex;
pub mod limits;
pub mod malloc;
pub mod mapping;
pub mod memfd;
pub mod memory;
pub mod oom;
pub mod packet;
pub mod pidfd;
pub mod poller;
pub mod prctl;
mod proc_file;
pub mod process_tree;
pub mod signals;
pub mod socket;
pub mod timer;
pub mod wait;
pub mod waker;

use crate::error::{Error, Result};

/// Names what was attempted when a system call fails.
pub(crate) trait FailedTo<T> {
    /// Turns the error into [`Error::Syscall`] with `what`, a phrase that follows "failed to".
    fn failed_to(self, what: &'static str) -> Result<T>;
}

impl<T> FailedTo<T> for nix::Result<T> {
    fn failed_to(self, what: &'static str) -> Result<T> {
        self.map_err(|errno| Error::errno(what, errno))
    }
}
