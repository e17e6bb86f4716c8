//! Shared memory that carries large data to another process, and is used again afterwards.
//!
//! ```text
//!   0           4 KiB
//!   ├────────────┼──────────────────────────┄
//!   │ borrowers  │ data
//! ```
//!
//! The owner fills the data and counts a borrower each time it passes the fd on; the borrower maps
//! the data privately, so that it may write to what it got without the owner's seeing it, and takes
//! itself off the count when it has let go. Until then the owner must not write: a private mapping
//! shows the owner's writes in pages that the borrower has not written to.
//!
//! A borrower that dies or forks never says that it has let go. Then the segment is not used again,
//! and its memory goes with its last mapping.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::atomic::{AtomicU32, Ordering};

use nix::sys::stat::fstat;

use crate::error::{Error, Result};
use crate::sys::mapping::Mapping;
use crate::sys::memfd::SharedMemory;
use crate::sys::{FailedTo as _, fork_guard};

/// Where the data begins: on a page of its own, since it is mapped in another way than the count.
const DATA: usize = 4096;

/// The owner's side.
#[derive(Debug)]
pub struct Segment {
    fd: SharedMemory,
    map: Mapping,
}

impl Segment {
    /// Makes a segment for `len` bytes of data.
    pub fn create(len: usize) -> Result<Self> {
        let fd = SharedMemory::create(c"deadpool-data", len.saturating_add(DATA))?;
        let map = Mapping::shared(fd.as_fd(), fd.len())?;
        Ok(Self { fd, map })
    }

    /// How many bytes of data it has room for.
    pub fn capacity(&self) -> usize {
        self.map.len() - DATA
    }

    /// The data, to be filled. Only what nobody borrows may be written to.
    pub fn bytes_mut(&mut self) -> &mut [u8] {
        // SAFETY: the mapping is this long and lives as long as the borrow of `self`; it is the only
        // one that can be written through, and nobody else refers to it.
        unsafe { std::slice::from_raw_parts_mut(self.map.as_ptr().add(DATA), self.capacity()) }
    }

    /// Counts a borrower, who is about to be sent the fd.
    pub fn lend(&self) {
        borrowers(&self.map).fetch_add(1, Ordering::AcqRel);
    }

    /// Uncounts a borrower who was not sent the fd.
    pub fn reclaim(&self) {
        borrowers(&self.map).fetch_sub(1, Ordering::AcqRel);
    }

    /// Whether nobody borrows it.
    pub fn is_free(&self) -> bool {
        borrowers(&self.map).load(Ordering::Acquire) == 0
    }
}

impl AsFd for Segment {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

/// The borrower's side.
#[derive(Debug)]
pub struct Borrowed {
    count: Mapping,
    data: Mapping,
    // Processes that have copies of the mapping would see what the owner writes later.
    forks: u32,
}

impl Borrowed {
    /// Maps a segment that was received.
    ///
    /// # Errors
    ///
    /// If the fd is not that of a segment, or the process has no room for another mapping.
    pub fn map(fd: &OwnedFd) -> Result<Self> {
        let forks = fork_guard::forks();
        let size = fstat(fd).failed_to("get the size of a segment")?.st_size;
        let len = usize::try_from(size).unwrap_or(0);
        if len <= DATA {
            return Err(Error::SharedMemory("a segment has no data"));
        }
        let count = Mapping::shared(fd.as_fd(), DATA)?;
        let data = Mapping::private(fd.as_fd(), len)?;
        Ok(Self { count, data, forks })
    }

    /// The first byte of the data. Valid for reads and writes of [`len`](Self::len) bytes for as
    /// long as this lives.
    pub fn as_ptr(&self) -> *mut u8 {
        // SAFETY: the mapping is longer than that.
        unsafe { self.data.as_ptr().add(DATA) }
    }

    /// How many bytes of data there are.
    pub fn len(&self) -> usize {
        self.data.len() - DATA
    }

    /// Never: without data there is no segment.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

impl Drop for Borrowed {
    fn drop(&mut self) {
        if self.forks == fork_guard::forks() {
            // The data may be written to from now on; nothing of it is read here any more.
            borrowers(&self.count).fetch_sub(1, Ordering::AcqRel);
        }
    }
}

fn borrowers(map: &Mapping) -> &AtomicU32 {
    // SAFETY: the mapping begins with a word, aligned to a page, which all sides use as an atomic.
    unsafe { AtomicU32::from_ptr(map.as_ptr().cast()) }
}

#[cfg(test)]
mod tests {
    use nix::sys::wait::waitpid;
    use nix::unistd::{ForkResult, fork};

    use super::*;

    fn lent(segment: &Segment) -> OwnedFd {
        segment.lend();
        segment.as_fd().try_clone_to_owned().unwrap()
    }

    fn first(borrowed: &Borrowed) -> u8 {
        // SAFETY: there is data.
        unsafe { borrowed.as_ptr().read() }
    }

    #[test]
    fn what_is_borrowed_comes_back() {
        let mut segment = Segment::create(10_000).unwrap();
        assert!(segment.is_free());
        segment.bytes_mut()[0] = 7;
        let (one, other) = (lent(&segment), lent(&segment));
        let (one, other) = (Borrowed::map(&one).unwrap(), Borrowed::map(&other).unwrap());
        assert_eq!((first(&one), one.len()), (7, 10_000));
        // SAFETY: there is data.
        unsafe { one.as_ptr().write(9) };
        assert_eq!((first(&one), first(&other), segment.bytes_mut()[0]), (9, 7, 7));
        drop(one);
        assert!(!segment.is_free());
        drop(other);
        assert!(segment.is_free());
    }

    #[test]
    fn what_a_fork_may_have_does_not_come_back() {
        let segment = Segment::create(1).unwrap();
        let borrowed = Borrowed::map(&lent(&segment)).unwrap();
        // SAFETY: the child does nothing but exit.
        match unsafe { fork() }.unwrap() {
            // SAFETY: the call does not return.
            ForkResult::Child => unsafe { libc::_exit(0) },
            ForkResult::Parent { child } => waitpid(child, None).unwrap(),
        };
        drop(borrowed);
        assert!(!segment.is_free());
    }

    #[test]
    fn what_is_no_segment_is_refused() {
        let (pipe, _writer) = nix::unistd::pipe().unwrap();
        assert!(Borrowed::map(&pipe).is_err());
        let short = SharedMemory::create(c"test", DATA).unwrap().into_owned();
        assert!(Borrowed::map(&short).is_err());
    }
}
