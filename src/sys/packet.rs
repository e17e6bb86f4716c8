//! Sockets that keep messages apart, for the few that carry descriptors.

use std::os::fd::OwnedFd;

use nix::sys::socket::{AddressFamily, SockFlag, SockType, socketpair};

use super::FailedTo as _;
use super::descriptor::above_standard;
use crate::error::Result;

/// The most bytes of one message.
pub const MAX_BYTES: usize = 4096;

/// A connected pair of `AF_UNIX` sockets of type `SOCK_SEQPACKET`.
pub fn pair() -> Result<(OwnedFd, OwnedFd)> {
    let (one, other) =
        socketpair(AddressFamily::Unix, SockType::SeqPacket, None, SockFlag::SOCK_CLOEXEC)
            .failed_to("create a pair of sockets")?;
    Ok((above_standard(one)?, above_standard(other)?))
}
