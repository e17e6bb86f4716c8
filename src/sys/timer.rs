//! A timer that is an fd, so that waiting for an instant is waiting for one more event.

use std::os::fd::{AsFd, AsRawFd, BorrowedFd};
use std::time::Duration;

use nix::sys::time::TimeSpec;
use nix::sys::timer::{Expiration, TimerSetTimeFlags};
use nix::sys::timerfd::{ClockId, TimerFd, TimerFlags};

use super::FailedTo;
use super::descriptor::above_standard;
use crate::error::Result;
use crate::time::Time;

/// Becomes readable at an instant.
#[derive(Debug)]
pub struct Timer {
    timer: TimerFd,
}

impl Timer {
    /// Makes a timer that is not armed.
    pub fn new() -> Result<Self> {
        let flags = TimerFlags::TFD_CLOEXEC | TimerFlags::TFD_NONBLOCK;
        let timer = TimerFd::new(ClockId::CLOCK_MONOTONIC, flags).failed_to("create a timerfd")?;
        // SAFETY: the descriptor is that of a timer, whatever its number.
        let timer = unsafe { TimerFd::from_owned_fd(above_standard(timer)?) };
        Ok(Self { timer })
    }

    /// Fires once at `deadline`, at once if that has passed, or never again for `None`.
    ///
    /// Replaces what was armed before, and forgets a firing that was not drained.
    pub fn arm(&self, deadline: Option<Time>) -> Result<()> {
        let Some(deadline) = deadline else {
            return self.timer.unset().failed_to("disarm a timerfd");
        };
        // An expiration of zero would disarm the timer. The kernel's own instants are signed.
        let nanos = deadline.as_nanos().clamp(1, i64::MAX as u64);
        let expiration = Expiration::OneShot(TimeSpec::from(Duration::from_nanos(nanos)));
        self.timer.set(expiration, TimerSetTimeFlags::TFD_TIMER_ABSTIME).failed_to("arm a timerfd")
    }

    /// Makes a timer that has fired unreadable again.
    pub fn drain(&self) {
        let mut count = [0_u8; 8];
        // SAFETY: the buffer is valid for its length and the fd is open. The only error is EAGAIN,
        // from a timer that has not fired.
        unsafe { libc::read(self.timer.as_fd().as_raw_fd(), count.as_mut_ptr().cast(), 8) };
    }
}

impl AsFd for Timer {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.timer.as_fd()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sys::clock;
    use crate::sys::poller::{Events, Interest, Poller, is_readable};

    #[test]
    fn fires_at_the_instant_and_not_before() {
        let timer = Timer::new().unwrap();
        let poller = Poller::new().unwrap();
        poller.add(timer.as_fd(), 5, Interest::READ).unwrap();
        let deadline = clock::now() + Duration::from_micros(300);
        timer.arm(Some(deadline)).unwrap();
        let mut events = Events::with_capacity(1);
        poller.wait(&mut events).unwrap();
        assert!(clock::now() >= deadline);
        assert_eq!(events.iter().next().unwrap().token, 5);
        timer.drain();
        assert!(!is_readable(timer.as_fd()).unwrap());
    }

    #[test]
    fn the_past_fires_at_once() {
        let timer = Timer::new().unwrap();
        for past in [0, 1, 999_999_999] {
            timer.arm(Some(Time::from_nanos(past))).unwrap();
            assert!(is_readable(timer.as_fd()).unwrap(), "{past}");
            timer.drain();
        }
    }

    #[test]
    fn never_is_accepted_and_disarming_forgets() {
        let timer = Timer::new().unwrap();
        timer.arm(Some(Time::from_nanos(u64::MAX))).unwrap();
        assert!(!is_readable(timer.as_fd()).unwrap());
        timer.arm(Some(Time::from_nanos(1))).unwrap();
        timer.arm(None).unwrap();
        assert!(!is_readable(timer.as_fd()).unwrap());
    }
}
