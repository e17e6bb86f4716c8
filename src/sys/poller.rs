//! Waiting for many fds at once: level-triggered epoll.

use std::os::fd::{AsFd, BorrowedFd};
use std::time::Duration;

use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::epoll::{Epoll, EpollCreateFlags, EpollEvent, EpollFlags, EpollTimeout};

use super::FailedTo;
use super::descriptor::above_standard;
use crate::error::{Error, Result};

/// What to be told of an fd. A hang-up or an error is told in any case.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Interest {
    /// It can be read, or has come to its end.
    pub readable: bool,
    /// It can be written.
    pub writable: bool,
}

impl Interest {
    /// Only whether it can be read.
    pub const READ: Self = Self { readable: true, writable: false };
    /// Only whether it can be written.
    pub const WRITE: Self = Self { readable: false, writable: true };
    /// Both.
    pub const READ_WRITE: Self = Self { readable: true, writable: true };

    fn flags(self) -> EpollFlags {
        let mut flags = EpollFlags::empty();
        if self.readable {
            flags |= EpollFlags::EPOLLIN | EpollFlags::EPOLLRDHUP;
        }
        if self.writable {
            flags |= EpollFlags::EPOLLOUT;
        }
        flags
    }
}

/// Something that happened to an fd.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Event {
    /// What the fd was added with.
    pub token: u64,
    /// It can be read without blocking.
    pub readable: bool,
    /// It can be written without blocking.
    pub writable: bool,
    /// The other end is gone, or will write no more; what it wrote can still be read.
    pub hangup: bool,
}

/// The events of one wait.
#[derive(Debug)]
pub struct Events {
    buffer: Vec<EpollEvent>,
    filled: usize,
}

impl Events {
    /// Room for `capacity` events a wait; what doesn't fit comes with the next.
    pub fn with_capacity(capacity: usize) -> Self {
        Self { buffer: vec![EpollEvent::empty(); capacity.max(1)], filled: 0 }
    }

    /// The events of the last wait.
    pub fn iter(&self) -> impl Iterator<Item = Event> + '_ {
        self.buffer[..self.filled].iter().map(|event| {
            let flags = event.events();
            let gone = EpollFlags::EPOLLHUP | EpollFlags::EPOLLRDHUP | EpollFlags::EPOLLERR;
            Event {
                token: event.data(),
                readable: flags.contains(EpollFlags::EPOLLIN),
                writable: flags.contains(EpollFlags::EPOLLOUT),
                hangup: flags.intersects(gone),
            }
        })
    }

    /// Whether there was none.
    pub fn is_empty(&self) -> bool {
        self.filled == 0
    }
}

/// A set of fds to wait for, each with a token of the caller's choice.
///
/// A closed fd leaves the set by itself only when no duplicate of it is left, in a forked process
/// too; so remove it before closing it.
#[derive(Debug)]
pub struct Poller {
    epoll: Epoll,
}

impl AsFd for Poller {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.epoll.0.as_fd()
    }
}

impl Poller {
    /// Makes an empty set.
    pub fn new() -> Result<Self> {
        let epoll = Epoll::new(EpollCreateFlags::EPOLL_CLOEXEC).failed_to("create an epoll")?;
        Ok(Self { epoll: Epoll(above_standard(epoll.0)?) })
    }

    /// Watches `fd`, which is in the set not more than once.
    pub fn add(&self, fd: BorrowedFd<'_>, token: u64, interest: Interest) -> Result<()> {
        let event = EpollEvent::new(interest.flags(), token);
        self.epoll.add(fd, event).failed_to("watch an fd")
    }

    /// Changes what is told of `fd`, and its token.
    pub fn modify(&self, fd: BorrowedFd<'_>, token: u64, interest: Interest) -> Result<()> {
        let mut event = EpollEvent::new(interest.flags(), token);
        self.epoll.modify(fd, &mut event).failed_to("watch an fd for something else")
    }

    /// Stops watching `fd`.
    pub fn remove(&self, fd: BorrowedFd<'_>) -> Result<()> {
        self.epoll.delete(fd).failed_to("stop watching an fd")
    }

    /// **Blocks** until at least one watched fd is ready, however long that takes.
    ///
    /// It fails when one becomes ready and the set is closed before this thread runs. `epoll_wait`
    /// would sleep on if the fd that woke it is closed as well; `poll` looks at what it was given.
    pub fn wait(&self, events: &mut Events) -> Result<()> {
        loop {
            let mut fds = [PollFd::new(self.as_fd(), PollFlags::POLLIN)];
            match poll(&mut fds, PollTimeout::NONE) {
                Ok(_) | Err(Errno::EINTR) => {}
                Err(errno) => return Err(Error::errno("wait for events", errno)),
            }
            self.poll(events)?;
            if !events.is_empty() {
                return Ok(());
            }
        }
    }

    /// Waits until something is ready, or so long.
    pub fn wait_at_most(&self, limit: Duration, events: &mut Events) -> Result<()> {
        let timeout = EpollTimeout::try_from(limit).unwrap_or(EpollTimeout::MAX);
        self.wait_for(events, timeout)
    }

    /// Gets what is ready now, if anything is. Doesn't block.
    pub fn poll(&self, events: &mut Events) -> Result<()> {
        self.wait_for(events, EpollTimeout::ZERO)
    }

    fn wait_for(&self, events: &mut Events, timeout: EpollTimeout) -> Result<()> {
        events.filled = 0;
        loop {
            match self.epoll.wait(&mut events.buffer, timeout) {
                Ok(filled) => {
                    events.filled = filled;
                    return Ok(());
                }
                Err(Errno::EINTR) => {}
                Err(errno) => return Err(Error::errno("wait for events", errno)),
            }
        }
    }
}

/// Whether `fd` can be read now. Doesn't block.
pub fn is_readable(fd: BorrowedFd<'_>) -> Result<bool> {
    let mut fds = [PollFd::new(fd.as_fd(), PollFlags::POLLIN)];
    // A poll that doesn't wait is never interrupted.
    poll(&mut fds, PollTimeout::ZERO).failed_to("poll an fd")?;
    Ok(fds[0].any().unwrap_or(false))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sys::socket;
    use crate::sys::waker::Waker;

    fn ready(poller: &Poller) -> Vec<Event> {
        let mut events = Events::with_capacity(8);
        poller.poll(&mut events).unwrap();
        events.iter().collect()
    }

    #[test]
    fn tells_until_drained() {
        let poller = Poller::new().unwrap();
        let waker = Waker::new().unwrap();
        poller.add(waker.as_fd(), 42, Interest::READ).unwrap();
        assert!(ready(&poller).is_empty());
        waker.wake();
        let mut events = Events::with_capacity(8);
        poller.wait(&mut events).unwrap();
        let expected = Event { token: 42, readable: true, writable: false, hangup: false };
        assert_eq!(events.iter().collect::<Vec<_>>(), [expected]);
        assert_eq!(ready(&poller), [expected]);
        waker.drain();
        assert!(ready(&poller).is_empty());
    }

    #[test]
    fn interest_can_change_and_end() {
        let poller = Poller::new().unwrap();
        let (ours, theirs) = socket::pair().unwrap();
        poller.add(ours.as_fd(), 1, Interest::READ).unwrap();
        assert!(ready(&poller).is_empty());
        poller.modify(ours.as_fd(), 2, Interest::READ_WRITE).unwrap();
        assert!(ready(&poller)[0].writable);
        assert_eq!(ready(&poller)[0].token, 2);
        poller.modify(ours.as_fd(), 2, Interest::READ).unwrap();
        drop(theirs);
        // Not at once: another test may be forking, and its child has a copy until it execs.
        let mut events = Events::with_capacity(1);
        poller.wait(&mut events).unwrap();
        assert!(events.iter().all(|event| event.hangup));
        poller.remove(ours.as_fd()).unwrap();
        assert!(ready(&poller).is_empty());
    }

    #[test]
    fn more_events_than_room_come_later() {
        let poller = Poller::new().unwrap();
        let wakers: Vec<_> = (0..5).map(|_| Waker::new().unwrap()).collect();
        for (token, waker) in wakers.iter().enumerate() {
            poller.add(waker.as_fd(), token as u64, Interest::READ).unwrap();
            waker.wake();
        }
        let mut seen = Vec::new();
        let mut events = Events::with_capacity(2);
        while seen.len() < 5 {
            poller.wait(&mut events).unwrap();
            for event in events.iter() {
                let token = usize::try_from(event.token).unwrap();
                wakers[token].drain();
                seen.push(token);
            }
        }
        seen.sort_unstable();
        assert_eq!(seen, [0, 1, 2, 3, 4]);
    }
}
