//! Whether a few workers do for all tasks, because those that ran lately were short.
//!
//! To wake an idle worker costs more than a short task takes. Where some workers run such tasks, others
//! behind them wait no longer than a worker needs to wake up, so more workers would only take the
//! processors from each other.

/// So many short tasks in a row make up for a long one.
const LONG_WEIGHT: u32 = 100;

/// From so many long tasks on that nothing has made up for, each task gets a worker of its own if one is
/// idle. A few can be short ones in the middle of which the worker lost its processor.
const LONG_LIMIT: u32 = 4 * LONG_WEIGHT;

/// How the tasks went lately.
#[derive(Debug, Default)]
pub(super) struct Pace {
    debt: u32,
}

impl Pace {
    /// A task has ended.
    pub fn ended(&mut self) {
        self.debt = self.debt.saturating_sub(1);
    }

    /// Tasks had to be taken back from behind one that turned out long.
    pub fn was_long(&mut self) {
        self.debt = (self.debt + LONG_WEIGHT).min(2 * LONG_LIMIT);
    }

    /// Whether what is sent behind a short task can be expected to have its turn soon.
    pub fn is_brisk(&self) -> bool {
        self.debt < LONG_LIMIT
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_few_long_tasks_among_many_do_not_count() {
        let mut pace = Pace::default();
        for _ in 0..100 {
            pace.was_long();
            (0..LONG_WEIGHT).for_each(|_| pace.ended());
            assert!(pace.is_brisk());
        }
    }

    #[test]
    fn several_at_once_count_until_as_many_short_ones_as_make_up_for_them_have_ended() {
        let mut pace = Pace::default();
        (0..50).for_each(|_| pace.was_long());
        (0..LONG_LIMIT).for_each(|_| pace.ended());
        assert!(!pace.is_brisk());
        pace.ended();
        assert!(pace.is_brisk());
    }
}
