//! Instants as plain numbers.
//!
//! A `Time` is a count of nanoseconds of `CLOCK_MONOTONIC`. That clock is the same in every process
//! of the machine, so a stamp that a worker leaves in shared memory can be compared with the
//! supervisor's own. The policy code never reads a clock: it is handed a `Time`.

use std::ops::Add;
use std::time::Duration;

/// An instant, in nanoseconds since an arbitrary point before the machine's first process.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Time(u64);

impl Time {
    /// The instant `nanos` nanoseconds after the clock's origin.
    #[must_use]
    pub const fn from_nanos(nanos: u64) -> Self {
        Self(nanos)
    }

    /// Nanoseconds since the clock's origin.
    #[must_use]
    pub const fn as_nanos(self) -> u64 {
        self.0
    }

    /// The time from `earlier` to `self`, zero if `earlier` is the later one.
    #[must_use]
    pub const fn since(self, earlier: Self) -> Duration {
        Duration::from_nanos(self.0.saturating_sub(earlier.0))
    }
}

impl Add<Duration> for Time {
    type Output = Self;

    /// Saturates, so that a timeout of centuries is simply never reached.
    fn add(self, duration: Duration) -> Self {
        let nanos = u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX);
        Self(self.0.saturating_add(nanos))
    }
}
