//! Descriptors on their way between Python and Rust.

use std::os::fd::{FromRawFd, OwnedFd, RawFd};

/// Take over a descriptor that was handed to Python as a number.
pub(super) fn own(fd: RawFd) -> OwnedFd {
    // SAFETY: the callers in Python pass each descriptor once, and don't use it afterwards.
    unsafe { OwnedFd::from_raw_fd(fd) }
}
