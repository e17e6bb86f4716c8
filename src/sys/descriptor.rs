//! The numbers of descriptors.
//!
//! A program that has closed 0, 1 or 2, as daemons do, gets these numbers for the next files that it
//! opens. Whatever writes to "standard error" then writes into such a file, and a child takes it for
//! its own: nothing of this crate may have one of these numbers.

use std::os::fd::{AsRawFd, FromRawFd, OwnedFd, RawFd};

use nix::fcntl::{FcntlArg, fcntl};

use super::FailedTo as _;
use crate::error::Result;

/// The first number that no standard stream has.
const FIRST: RawFd = 3;

/// Returns the descriptor under a number that no standard stream has. Close-on-exec, as all are.
pub fn above_standard(fd: impl Into<OwnedFd>) -> Result<OwnedFd> {
    let fd = fd.into();
    if fd.as_raw_fd() >= FIRST {
        return Ok(fd);
    }
    let number = fcntl(&fd, FcntlArg::F_DUPFD_CLOEXEC(FIRST)).failed_to("move a descriptor")?;
    // SAFETY: the kernel has just made this descriptor for us.
    Ok(unsafe { OwnedFd::from_raw_fd(number) })
}
