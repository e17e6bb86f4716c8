//! An eventfd that wakes whoever polls it.

use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};

use nix::errno::Errno;
use nix::sys::eventfd::{EfdFlags, EventFd};

use super::FailedTo;
use super::descriptor::above_standard;
use super::socket::set_nonblocking;
use crate::error::Result;

/// Becomes readable when it is woken, and stays so until it is drained.
///
/// Wake-ups are not counted: many before a [`drain`](Self::drain) are one. The fd can be passed to
/// another process, whose waker is then the same one.
#[derive(Debug)]
pub struct Waker {
    fd: OwnedFd,
}

impl Waker {
    /// Makes a waker.
    pub fn new() -> Result<Self> {
        let flags = EfdFlags::EFD_CLOEXEC | EfdFlags::EFD_NONBLOCK;
        let fd = EventFd::from_flags(flags).failed_to("create an eventfd")?;
        Ok(Self { fd: above_standard(fd)? })
    }

    /// Takes an eventfd that came from another process.
    pub fn from_owned(fd: OwnedFd) -> Result<Self> {
        // The flag belongs to the open file, so it is normally set already. A peer that sent
        // something else must still not be able to make us block.
        set_nonblocking(fd.as_fd())?;
        Ok(Self { fd })
    }

    /// Wakes the poller; async-signal-safe. False if somebody has closed the fd, or has something else
    /// under its number.
    pub fn wake(&self) -> bool {
        // A signal handler must leave errno as it was.
        let errno = Errno::last_raw();
        let one = 1_u64.to_ne_bytes();
        // SAFETY: the buffer is valid for its length. The only error of a non-blocking eventfd that is
        // open is EAGAIN from a full counter, and then it is readable already.
        let written = unsafe { libc::write(self.fd.as_raw_fd(), one.as_ptr().cast(), one.len()) };
        let is_awake = written == 8 || Errno::last() == Errno::EAGAIN;
        Errno::set_raw(errno);
        is_awake
    }

    /// Makes the waker unreadable until the next [`wake`](Self::wake).
    ///
    /// Drain first and look for work second, or a wake-up in between is lost.
    pub fn drain(&self) {
        let mut count = [0_u8; 8];
        // SAFETY: the buffer is valid for its length and the fd is open. The only error is EAGAIN,
        // from a waker that nobody woke.
        unsafe { libc::read(self.fd.as_raw_fd(), count.as_mut_ptr().cast(), count.len()) };
    }
}

impl AsFd for Waker {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sys::poller::is_readable;

    #[test]
    fn many_wakes_are_one() {
        let waker = Waker::new().unwrap();
        assert!(!is_readable(waker.as_fd()).unwrap());
        waker.wake();
        waker.wake();
        assert!(is_readable(waker.as_fd()).unwrap());
        waker.drain();
        assert!(!is_readable(waker.as_fd()).unwrap());
        waker.drain();
    }

    #[test]
    fn a_full_counter_neither_blocks_nor_loses_the_wake() {
        let waker = Waker::new().unwrap();
        nix::unistd::write(&waker.fd, &(u64::MAX - 1).to_ne_bytes()).unwrap();
        Errno::set_raw(77);
        waker.wake();
        assert_eq!(Errno::last_raw(), 77);
        assert!(is_readable(waker.as_fd()).unwrap());
    }

    #[test]
    fn a_passed_fd_is_the_same_waker() {
        let waker = Waker::new().unwrap();
        let same = Waker::from_owned(waker.fd.try_clone().unwrap()).unwrap();
        same.wake();
        assert!(is_readable(waker.as_fd()).unwrap());
    }
}
