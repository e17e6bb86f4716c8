//! Stream sockets between two processes, and fds passed over them.
//!
//! `None` from [`send`], [`recv`] and their fd-passing kin says that nothing was moved: a
//! non-blocking socket would have blocked, or a signal handler ran while a blocking one waited. The
//! first caller polls, the second runs its signal handlers; both then try again.

use std::io::IoSlice;
use std::mem;
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};
use std::slice;

use nix::errno::Errno;
use nix::fcntl::{FcntlArg, OFlag, fcntl};
use nix::sys::socket::{
    AddressFamily, ControlMessage, MsgFlags, SockFlag, SockType, sendmsg, socketpair,
};

use super::FailedTo;
use super::descriptor::above_standard;
use crate::error::{Error, Result};

/// The most fds that one message may carry.
pub const MAX_FDS: usize = 16;

/// Bytes of [`MAX_FDS`] fds.
#[expect(clippy::cast_possible_truncation, reason = "a small constant")]
const FDS_BYTES: u32 = (MAX_FDS * size_of::<RawFd>()) as u32;

/// Room for the control message that carries [`MAX_FDS`] fds, in words so that it is aligned.
const CONTROL_WORDS: usize = 16;

/// Makes two connected stream sockets that block.
pub fn pair() -> Result<(OwnedFd, OwnedFd)> {
    let (one, other) =
        socketpair(AddressFamily::Unix, SockType::Stream, None, SockFlag::SOCK_CLOEXEC)
            .failed_to("create a socket pair")?;
    Ok((above_standard(one)?, above_standard(other)?))
}

/// Makes every user of `fd`'s open file unable to block on it.
pub fn set_nonblocking(fd: BorrowedFd<'_>) -> Result<()> {
    let flags = fcntl(fd, FcntlArg::F_GETFL).failed_to("get the flags of an fd")?;
    let flags = OFlag::from_bits_retain(flags);
    if !flags.contains(OFlag::O_NONBLOCK) {
        fcntl(fd, FcntlArg::F_SETFL(flags | OFlag::O_NONBLOCK))
            .failed_to("make an fd non-blocking")?;
    }
    Ok(())
}

/// Sends as much of `parts` as fits; says how many bytes that was. **Blocks** if the socket does.
///
/// A peer that is gone is an error and not a SIGPIPE.
pub fn send(fd: BorrowedFd<'_>, parts: &[IoSlice<'_>]) -> Result<Option<usize>> {
    send_message(fd, parts, &[])
}

/// Sends as much of `bytes` as fits, with copies of `fds` attached to the first byte. **Blocks** if
/// the socket does.
///
/// The rest, if not all went, is for [`send`]. `bytes` may not be empty: fds can't travel alone.
pub fn send_with_fds(
    fd: BorrowedFd<'_>,
    bytes: &[u8],
    fds: &[BorrowedFd<'_>],
) -> Result<Option<usize>> {
    if bytes.is_empty() || fds.len() > MAX_FDS {
        return Err(Error::errno("send fds", Errno::EINVAL));
    }
    let raw: Vec<RawFd> = fds.iter().map(AsRawFd::as_raw_fd).collect();
    send_message(fd, &[IoSlice::new(bytes)], &raw)
}

fn send_message(fd: BorrowedFd<'_>, parts: &[IoSlice<'_>], fds: &[RawFd]) -> Result<Option<usize>> {
    let rights = [ControlMessage::ScmRights(fds)];
    let control = if fds.is_empty() { &[] } else { &rights[..] };
    unless_would_block(
        "send to a peer",
        sendmsg::<()>(fd.as_raw_fd(), parts, control, MsgFlags::MSG_NOSIGNAL, None),
    )
}

/// Receives what is there into `bytes`; `Some(0)` is the end of the stream. **Blocks** if the
/// socket does.
///
/// Fds that came with the bytes are dropped by the kernel.
pub fn recv(fd: BorrowedFd<'_>, bytes: &mut [u8]) -> Result<Option<usize>> {
    // SAFETY: the buffer is valid for its length and the fd is open.
    let received = unsafe { libc::recv(fd.as_raw_fd(), bytes.as_mut_ptr().cast(), bytes.len(), 0) };
    unless_would_block("receive from a peer", Errno::result(received).map(isize::unsigned_abs))
}

/// A message with the fds that came along.
#[derive(Debug)]
pub struct Message {
    /// How many bytes it has.
    pub count: usize,
    /// The fds that arrived; none of them if one was lost.
    pub fds: Vec<OwnedFd>,
    /// Whether fds were lost: this process has too many open, or there were more than [`MAX_FDS`].
    /// The bytes are whole all the same.
    pub has_lost_fds: bool,
}

/// Receives like [`recv`], and the fds that came with the bytes. **Blocks** if the socket does.
pub fn recv_with_fds(fd: BorrowedFd<'_>, bytes: &mut [u8]) -> Result<Option<Message>> {
    let received = receive_message(fd, bytes)?;
    Ok(received.map(|(count, fds, has_lost_fds)| {
        let fds = if has_lost_fds { Vec::new() } else { fds };
        Message { count, fds, has_lost_fds }
    }))
}

/// Receives bytes and fds; the flag says that not all fds could be received.
fn receive_message(
    fd: BorrowedFd<'_>,
    bytes: &mut [u8],
) -> Result<Option<(usize, Vec<OwnedFd>, bool)>> {
    let mut control = [0_u64; CONTROL_WORDS];
    let mut part = libc::iovec { iov_base: bytes.as_mut_ptr().cast(), iov_len: bytes.len() };
    // SAFETY: an all-zero msghdr is a valid one.
    let mut message: libc::msghdr = unsafe { mem::zeroed() };
    message.msg_iov = &raw mut part;
    message.msg_iovlen = 1;
    message.msg_control = control.as_mut_ptr().cast();
    message.msg_controllen = control_len() as _;
    // SAFETY: every pointer in the message is valid for the length beside it during the call.
    let received =
        unsafe { libc::recvmsg(fd.as_raw_fd(), &raw mut message, libc::MSG_CMSG_CLOEXEC) };
    let received = Errno::result(received).map(isize::unsigned_abs);
    let Some(count) = unless_would_block("receive fds from a peer", received)? else {
        return Ok(None);
    };
    // SAFETY: the kernel has just filled the message, and nothing of it was taken yet.
    let fds = unsafe { take_fds(&message) };
    let came = fds.len();
    // One that can't be moved is lost, as one that there was no room for.
    let fds: Vec<OwnedFd> = fds.into_iter().map_while(|fd| above_standard(fd).ok()).collect();
    let has_lost_fds = message.msg_flags & libc::MSG_CTRUNC != 0 || fds.len() < came;
    Ok(Some((count, fds, has_lost_fds)))
}

/// Room for one control message of [`MAX_FDS`] fds, in bytes.
fn control_len() -> usize {
    // SAFETY: a computation on numbers.
    let needed = unsafe { libc::CMSG_SPACE(FDS_BYTES) } as usize;
    debug_assert!(needed <= CONTROL_WORDS * size_of::<u64>());
    needed
}

/// What came with the bytes of a stream on which at most one fd travels with a byte.
#[derive(Debug)]
pub enum Fds {
    /// Nothing.
    None,
    /// An fd.
    One(OwnedFd),
    /// One that this process may not have, since too many are open.
    Lost,
}

/// Receives like [`recv`], and the fd that came with the first of the bytes. **Blocks** if the
/// socket does.
///
/// The kernel ends a read before the next byte that has an fd. More than one is an error.
pub fn recv_with_fd(fd: BorrowedFd<'_>, bytes: &mut [u8]) -> Result<Option<(usize, Fds)>> {
    match receive_message(fd, bytes)? {
        None => Ok(None),
        Some((count, fds, true)) if fds.is_empty() => Ok(Some((count, Fds::Lost))),
        Some((count, mut fds, false)) if fds.len() <= 1 => {
            Ok(Some((count, fds.pop().map_or(Fds::None, Fds::One))))
        }
        Some(_) => Err(Error::Protocol("with more than one fd")),
    }
}

/// Takes ownership of every fd in the control data of `message`.
///
/// # Safety
///
/// `message` was filled by `recvmsg`, its control buffer is alive, and this is called once for it.
unsafe fn take_fds(message: &libc::msghdr) -> Vec<OwnedFd> {
    let mut fds = Vec::new();
    // SAFETY: the headers are walked as cmsg(3) says, within what the kernel wrote; each header of
    // this kind is followed by fds that the kernel installed for us and that nobody else owns.
    unsafe {
        let mut header = libc::CMSG_FIRSTHDR(message);
        while !header.is_null() {
            if (*header).cmsg_level == libc::SOL_SOCKET && (*header).cmsg_type == libc::SCM_RIGHTS {
                let data = libc::CMSG_DATA(header);
                let data_len = (*header).cmsg_len as usize - libc::CMSG_LEN(0) as usize;
                let bytes = slice::from_raw_parts(data, data_len);
                for fd in bytes.chunks_exact(size_of::<RawFd>()) {
                    let mut number = [0; size_of::<RawFd>()];
                    number.copy_from_slice(fd);
                    fds.push(OwnedFd::from_raw_fd(RawFd::from_ne_bytes(number)));
                }
            }
            header = libc::CMSG_NXTHDR(message, header);
        }
    }
    fds
}

fn unless_would_block(what: &'static str, result: nix::Result<usize>) -> Result<Option<usize>> {
    match result {
        Ok(count) => Ok(Some(count)),
        Err(Errno::EAGAIN | Errno::EINTR) => Ok(None),
        Err(errno) => Err(Error::errno(what, errno)),
    }
}

#[cfg(test)]
mod tests {
    use std::os::fd::AsFd;

    use nix::fcntl::FdFlag;
    use nix::sys::socket::{Shutdown, shutdown};

    use super::*;
    use crate::sys::poller::is_readable;
    use crate::sys::waker::Waker;

    fn io(bytes: &[u8]) -> [IoSlice<'_>; 1] {
        [IoSlice::new(bytes)]
    }

    fn is_cloexec(fd: BorrowedFd<'_>) -> bool {
        let flags = fcntl(fd, FcntlArg::F_GETFD).unwrap();
        FdFlag::from_bits_retain(flags).contains(FdFlag::FD_CLOEXEC)
    }

    /// Closes a socket, and the copies that a child has that another test is just forking.
    fn close(fd: OwnedFd) {
        shutdown(fd.as_raw_fd(), Shutdown::Both).unwrap();
        drop(fd);
    }

    #[test]
    fn bytes_arrive_in_order_and_then_the_end() {
        let (ours, theirs) = pair().unwrap();
        assert!(is_cloexec(ours.as_fd()) && is_cloexec(theirs.as_fd()));
        let parts = [IoSlice::new(b"dead"), IoSlice::new(b"pool")];
        assert_eq!(send(ours.as_fd(), &parts).unwrap(), Some(8));
        let mut buffer = [0; 16];
        assert_eq!(recv(theirs.as_fd(), &mut buffer).unwrap(), Some(8));
        assert_eq!(&buffer[..8], b"deadpool");
        drop(ours);
        assert_eq!(recv(theirs.as_fd(), &mut buffer).unwrap(), Some(0));
    }

    #[test]
    fn nonblocking_says_none_at_both_ends() {
        let (ours, theirs) = pair().unwrap();
        set_nonblocking(ours.as_fd()).unwrap();
        set_nonblocking(ours.as_fd()).unwrap();
        assert_eq!(recv(ours.as_fd(), &mut [0; 4]).unwrap(), None);
        let block = vec![0; 1 << 16];
        while send(ours.as_fd(), &io(&block)).unwrap().is_some() {}
        assert!(is_readable(theirs.as_fd()).unwrap());
    }

    #[test]
    fn a_peer_that_is_gone_is_an_error() {
        let (ours, theirs) = pair().unwrap();
        close(theirs);
        assert!(send(ours.as_fd(), &io(b"x")).is_err());
    }

    #[test]
    fn fds_travel_with_the_bytes() {
        let (ours, theirs) = pair().unwrap();
        let wakers: Vec<_> = (0..MAX_FDS).map(|_| Waker::new().unwrap()).collect();
        let fds: Vec<_> = wakers.iter().map(AsFd::as_fd).collect();
        assert_eq!(send_with_fds(ours.as_fd(), b"take", &fds).unwrap(), Some(4));
        let mut buffer = [0; 16];
        let message = recv_with_fds(theirs.as_fd(), &mut buffer).unwrap().unwrap();
        assert_eq!((message.count, message.fds.len()), (4, MAX_FDS));
        assert!(!message.has_lost_fds);
        for (waker, fd) in wakers.iter().zip(message.fds) {
            assert!(is_cloexec(fd.as_fd()));
            Waker::from_owned(fd).unwrap().wake();
            assert!(is_readable(waker.as_fd()).unwrap());
        }
    }

    #[test]
    fn no_fds_and_no_bytes_are_told_apart() {
        let (ours, theirs) = pair().unwrap();
        set_nonblocking(theirs.as_fd()).unwrap();
        let mut buffer = [0; 16];
        assert!(recv_with_fds(theirs.as_fd(), &mut buffer).unwrap().is_none());
        send(ours.as_fd(), &io(b"x")).unwrap();
        let message = recv_with_fds(theirs.as_fd(), &mut buffer).unwrap().unwrap();
        assert_eq!((message.count, message.fds.len(), message.has_lost_fds), (1, 0, false));
        close(ours);
        let message = recv_with_fds(theirs.as_fd(), &mut buffer).unwrap().unwrap();
        assert_eq!(message.count, 0);
    }

    #[test]
    fn too_many_fds_are_lost_and_closed() {
        let (ours, theirs) = pair().unwrap();
        let (reader, writer) = nix::unistd::pipe().unwrap();
        let too_many = [writer.as_fd(); MAX_FDS + 1];
        assert!(send_with_fds(ours.as_fd(), b"x", &too_many).is_err());
        assert!(send_with_fds(ours.as_fd(), b"", &too_many[..1]).is_err());
        let raw = too_many.map(|fd| fd.as_raw_fd());
        send_message(ours.as_fd(), &io(b"x"), &raw).unwrap();
        let message = recv_with_fds(theirs.as_fd(), &mut [0; 4]).unwrap().unwrap();
        assert_eq!((message.count, message.fds.len(), message.has_lost_fds), (1, 0, true));
        // The pipe ends only when the last copy of its writing end is closed.
        drop(writer);
        assert_eq!(nix::unistd::read(&reader, &mut [0; 1]).unwrap(), 0);
    }
}
