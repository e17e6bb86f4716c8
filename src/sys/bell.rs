//! A pair of bells between two processes that need not trust each other.
//!
//! An eventfd would be one descriptor instead of two, but its open file is one for both: whether it
//! blocks, and how full it is, is then the other process's to decide. Each end of a pair of sockets
//! is a file of its own, and every call here says for itself that it does not block.

use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};

use nix::errno::Errno;

use super::packet;
use crate::error::Result;

/// The most messages that one [`Bell::silence`] takes out of a bell; the poller tells of the rest.
const MOST_RINGS: usize = 64;

/// One end of a pair. Readable when the other end has rung, until it is silenced.
#[derive(Debug)]
pub struct Bell {
    fd: OwnedFd,
}

impl Bell {
    /// Makes both ends.
    pub fn pair() -> Result<(Self, Self)> {
        let (one, other) = packet::pair()?;
        Ok((Self { fd: one }, Self { fd: other }))
    }

    /// Takes an end that came from another process.
    pub fn from_owned(fd: OwnedFd) -> Self {
        Self { fd }
    }

    /// Makes the other end readable; false if it is gone, or something else has the number of this
    /// descriptor. Doesn't block, whatever flags the file has; async-signal-safe.
    pub fn ring(&self) -> bool {
        // A signal handler must leave errno as it was.
        let errno = Errno::last_raw();
        let flags = libc::MSG_DONTWAIT | libc::MSG_NOSIGNAL;
        // SAFETY: the buffer is valid for its length.
        let sent = unsafe { libc::send(self.fd.as_raw_fd(), [1_u8].as_ptr().cast(), 1, flags) };
        // A bell that is full is readable.
        let is_rung = sent == 1 || matches!(Errno::last(), Errno::EAGAIN | Errno::ENOBUFS);
        Errno::set_raw(errno);
        is_rung
    }

    /// Makes this end unreadable until the other rings again; false if the other end is gone, and this
    /// one will be readable for ever. Doesn't block, whatever flags the file has.
    ///
    /// Silence it first and look for work second, or a ring in between is lost.
    pub fn silence(&self) -> bool {
        let mut byte = [0_u8; 1];
        for _ in 0..MOST_RINGS {
            let flags = libc::MSG_DONTWAIT | libc::MSG_TRUNC;
            // SAFETY: the buffer is valid for its length, and the fd is open. MSG_TRUNC makes the call
            // return the length that a longer message has, and write no more than fits.
            let count = unsafe {
                libc::recv(self.fd.as_raw_fd(), byte.as_mut_ptr().cast(), byte.len(), flags)
            };
            match count {
                0 => return false,
                -1 => return matches!(Errno::last(), Errno::EAGAIN | Errno::EINTR),
                _ => {}
            }
        }
        true
    }

    /// Another descriptor of the same end.
    pub fn try_clone(&self) -> std::io::Result<Self> {
        Ok(Self { fd: self.fd.try_clone()? })
    }
}

impl AsFd for Bell {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

#[cfg(test)]
mod tests {
    use nix::fcntl::{FcntlArg, OFlag, fcntl};

    use super::*;
    use crate::sys::poller::is_readable;

    #[test]
    fn many_rings_are_one() {
        let (ours, theirs) = Bell::pair().unwrap();
        assert!(!is_readable(theirs.as_fd()).unwrap());
        assert!(ours.ring() && ours.ring());
        assert!(is_readable(theirs.as_fd()).unwrap());
        assert!(theirs.silence());
        assert!(!is_readable(theirs.as_fd()).unwrap());
        assert!(theirs.silence());
    }

    #[test]
    fn it_rings_both_ways() {
        let (ours, theirs) = Bell::pair().unwrap();
        assert!(theirs.ring());
        assert!(is_readable(ours.as_fd()).unwrap());
        assert!(!is_readable(theirs.as_fd()).unwrap());
    }

    #[test]
    fn an_end_that_blocks_and_is_full_blocks_neither_end() {
        let (ours, theirs) = Bell::pair().unwrap();
        for end in [&ours, &theirs] {
            fcntl(end, FcntlArg::F_SETFL(OFlag::empty())).unwrap();
        }
        for _ in 0..100_000 {
            assert!(ours.ring() && theirs.ring());
        }
        assert!(ours.silence() && theirs.silence());
        // As many as one look takes; there are more.
        assert!(is_readable(ours.as_fd()).unwrap());
        Errno::set_raw(77);
        assert!(ours.ring());
        assert_eq!(Errno::last_raw(), 77);
    }

    #[test]
    fn an_end_that_is_gone_is_told_apart() {
        let (ours, theirs) = Bell::pair().unwrap();
        nix::sys::socket::shutdown(theirs.fd.as_raw_fd(), nix::sys::socket::Shutdown::Both)
            .unwrap();
        drop(theirs);
        assert!(!ours.ring());
        assert!(!ours.silence());
    }
}
