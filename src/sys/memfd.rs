//! Anonymous files in memory that two processes can share.

use std::ffi::CStr;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use nix::errno::Errno;
use nix::fcntl::{FcntlArg, SealFlag, fcntl};
use nix::sys::memfd::{MFdFlags, memfd_create};
use nix::sys::stat::fstat;
use nix::unistd::ftruncate;

use super::FailedTo;
use super::descriptor::above_standard;
use crate::error::{Error, Result};

/// A memfd of a fixed size.
///
/// It can neither shrink nor grow, so no mapping of it can fault because of the other side.
#[derive(Debug)]
pub struct SharedMemory {
    fd: OwnedFd,
    len: usize,
}

impl SharedMemory {
    /// Makes `len` zero bytes, which take no memory until they are touched.
    ///
    /// The name is for `/proc/<pid>/maps` and need not be unique.
    pub fn create(name: &CStr, len: usize) -> Result<Self> {
        let size = i64::try_from(len).map_err(|_| Error::errno("create a memfd", Errno::EFBIG))?;
        let fd = above_standard(create_unsized(name).failed_to("create a memfd")?)?;
        ftruncate(&fd, size).failed_to("size a memfd")?;
        let seals = SealFlag::F_SEAL_SHRINK | SealFlag::F_SEAL_GROW | SealFlag::F_SEAL_SEAL;
        fcntl(&fd, FcntlArg::F_ADD_SEALS(seals)).failed_to("seal a memfd")?;
        Ok(Self { fd, len })
    }

    /// Its size in bytes.
    pub fn len(&self) -> usize {
        self.len
    }

    /// Whether it has no bytes at all.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// The fd alone, to be passed on or mapped later.
    pub fn into_owned(self) -> OwnedFd {
        self.fd
    }
}

impl AsFd for SharedMemory {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

fn create_unsized(name: &CStr) -> nix::Result<OwnedFd> {
    let flags = MFdFlags::MFD_CLOEXEC | MFdFlags::MFD_ALLOW_SEALING;
    // From Linux 6.3 a machine may demand that memory be marked as not executable.
    match memfd_create(name, flags | MFdFlags::from_bits_retain(libc::MFD_NOEXEC_SEAL)) {
        Err(Errno::EINVAL) => memfd_create(name, flags),
        result => result,
    }
}

/// Refuses an fd whose first `len` bytes might not be there, now or later.
///
/// A peer that could shrink the file would turn our next access into a SIGBUS.
pub(super) fn verify(fd: BorrowedFd<'_>, len: usize) -> Result<()> {
    // The seal is checked first: after it, the size can only be what it is or more.
    let seals = fcntl(fd, FcntlArg::F_GET_SEALS).failed_to("get the seals of a memfd")?;
    if !SealFlag::from_bits_retain(seals).contains(SealFlag::F_SEAL_SHRINK) {
        return Err(Error::SharedMemory("a memfd can shrink"));
    }
    let stat = fstat(fd).failed_to("get the size of a memfd")?;
    if usize::try_from(stat.st_size).unwrap_or(0) < len {
        return Err(Error::SharedMemory("a memfd is too short"));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn its_size_is_fixed() {
        let memory = SharedMemory::create(c"test", 8192).unwrap();
        assert_eq!(memory.len(), 8192);
        assert!(!memory.is_empty());
        assert!(ftruncate(&memory, 4096).is_err());
        assert!(ftruncate(&memory, 16384).is_err());
        verify(memory.as_fd(), 8192).unwrap();
        assert!(verify(memory.as_fd(), 8193).is_err());
    }

    #[test]
    fn an_impossible_size_is_an_error() {
        assert!(SharedMemory::create(c"test", usize::MAX).is_err());
    }

    #[test]
    fn what_could_shrink_is_refused() {
        let open = memfd_create(c"test", MFdFlags::MFD_ALLOW_SEALING).unwrap();
        ftruncate(&open, 8192).unwrap();
        assert!(matches!(verify(open.as_fd(), 4096), Err(Error::SharedMemory(_))));
        let (pipe, _writer) = nix::unistd::pipe().unwrap();
        assert!(matches!(verify(pipe.as_fd(), 0), Err(Error::Syscall { .. })));
    }
}
