//! How long starts are held back after some have failed.

use std::time::Duration;

use crate::time::Time;

const FIRST_DELAY: Duration = Duration::from_millis(10);
const LAST_DELAY: Duration = Duration::from_secs(5);

/// After so many failed starts in a row, over at least so long, waiting tasks are failed.
const GIVE_UP_AFTER: u32 = 3;
const GIVE_UP_TIME: Duration = Duration::from_secs(1);

/// Holds starts back while workers do not become useful.
#[derive(Debug, Default)]
pub(super) struct Backoff {
    /// Failed starts in a row.
    pub failures: u32,
    /// When the first of them failed.
    pub since: Time,
    until: Option<Time>,
}

impl Backoff {
    pub fn failed(&mut self, now: Time) {
        if self.holds(now).is_some() {
            return; // It was started together with one that has failed already.
        }
        if self.failures == 0 {
            self.since = now;
        }
        let delay = FIRST_DELAY.saturating_mul(1 << self.failures.min(16)).min(LAST_DELAY);
        self.failures += 1;
        self.until = Some(now + delay);
    }

    pub fn reset(&mut self) {
        if self.failures != 0 {
            *self = Self::default();
        }
    }

    /// Until when no start may be tried, if not now.
    pub fn holds(&self, now: Time) -> Option<Time> {
        self.until.filter(|&until| until > now)
    }

    pub fn is_hopeless(&self, now: Time) -> bool {
        self.failures >= GIVE_UP_AFTER && now.since(self.since) >= GIVE_UP_TIME
    }
}
