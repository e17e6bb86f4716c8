//! Shared memory made part of this process's own.

use std::ffi::c_void;
use std::num::NonZeroUsize;
use std::os::fd::BorrowedFd;
use std::ptr::NonNull;

use nix::errno::Errno;
use nix::sys::mman::{MapFlags, ProtFlags, mmap, munmap};

use super::{FailedTo, memfd};
use crate::error::Result;

/// A readable and writable mapping of a memfd from its start; unmapped when dropped.
///
/// Hands out a pointer only: who else writes there, and what may be assumed of it, is the caller's
/// to say. It stays valid when the fd is closed.
#[derive(Debug)]
pub struct Mapping {
    start: NonNull<c_void>,
    len: usize,
}

// SAFETY: the mapping belongs to the process and not to a thread, and this type never accesses it.
unsafe impl Send for Mapping {}
// SAFETY: as above.
unsafe impl Sync for Mapping {}

impl Mapping {
    /// Maps the first `len` bytes so that both sides see each other's writes.
    ///
    /// An fd that is too short or could become so is an error.
    pub fn shared(fd: BorrowedFd<'_>, len: usize) -> Result<Self> {
        Self::map(fd, len, MapFlags::MAP_SHARED)
    }

    /// Maps the first `len` bytes so that what is written here is seen here alone.
    ///
    /// What the other side writes may be seen still, in pages that were not written to here.
    pub fn private(fd: BorrowedFd<'_>, len: usize) -> Result<Self> {
        Self::map(fd, len, MapFlags::MAP_PRIVATE)
    }

    fn map(fd: BorrowedFd<'_>, len: usize, flags: MapFlags) -> Result<Self> {
        memfd::verify(fd, len)?;
        let bytes = NonZeroUsize::new(len).ok_or(Errno::EINVAL).failed_to("map a memfd")?;
        let protection = ProtFlags::PROT_READ | ProtFlags::PROT_WRITE;
        // SAFETY: the kernel chooses a place where nothing is, so no memory changes its meaning.
        let start = unsafe { mmap(None, bytes, protection, flags, fd, 0) };
        Ok(Self { start: start.failed_to("map a memfd")?, len })
    }

    /// The first byte, aligned to a page. Valid for reads and writes of [`len`](Self::len) bytes
    /// for as long as the mapping lives.
    pub fn as_ptr(&self) -> *mut u8 {
        self.start.as_ptr().cast()
    }

    /// How many bytes are mapped.
    pub fn len(&self) -> usize {
        self.len
    }

    /// Never: an empty mapping can't be made.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }
}

impl Drop for Mapping {
    fn drop(&mut self) {
        // SAFETY: this is what was mapped, and whoever uses the pointer borrows from `self`.
        // Unmapping a whole mapping can't fail, but for the limit on the number of mappings when a
        // neighbour was merged with it; it stays mapped then, which harms nobody.
        let _ = unsafe { munmap(self.start, self.len) };
    }
}

#[cfg(test)]
mod tests {
    use std::os::fd::AsFd;

    use super::*;
    use crate::error::Error;
    use crate::sys::memfd::SharedMemory;

    fn get(mapping: &Mapping, at: usize) -> u8 {
        assert!(at < mapping.len());
        // SAFETY: within the mapping, and the test writes from this thread only.
        unsafe { mapping.as_ptr().add(at).read() }
    }

    fn put(mapping: &Mapping, at: usize, byte: u8) {
        assert!(at < mapping.len());
        // SAFETY: as above.
        unsafe { mapping.as_ptr().add(at).write(byte) };
    }

    #[test]
    fn shared_is_seen_and_private_is_not() {
        let memory = SharedMemory::create(c"test", 8192).unwrap();
        let ours = Mapping::shared(memory.as_fd(), 8192).unwrap();
        let theirs = Mapping::shared(memory.as_fd(), 8192).unwrap();
        let copy = Mapping::private(memory.as_fd(), 8192).unwrap();
        put(&ours, 8191, 7);
        assert_eq!(get(&theirs, 8191), 7);
        put(&copy, 0, 9);
        assert_eq!((get(&copy, 0), get(&ours, 0)), (9, 0));
        drop(memory);
        assert_eq!(get(&ours, 8191), 7);
    }

    #[test]
    fn what_is_not_there_is_not_mapped() {
        let memory = SharedMemory::create(c"test", 4096).unwrap();
        assert!(matches!(Mapping::shared(memory.as_fd(), 4097), Err(Error::SharedMemory(_))));
        assert!(Mapping::private(memory.as_fd(), 0).is_err());
    }
}
