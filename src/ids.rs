//! The identities of tasks and workers.

use std::sync::atomic::{AtomicU64, Ordering};

/// Identity of a task, unique within the process and never reused.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct TaskId(u64);

impl TaskId {
    /// Take the next unused identity.
    pub fn next() -> Self {
        static NEXT: AtomicU64 = AtomicU64::new(1);
        Self(NEXT.fetch_add(1, Ordering::Relaxed))
    }

    /// The identity as a number.
    pub const fn get(self) -> u64 {
        self.0
    }
}

impl From<u64> for TaskId {
    fn from(id: u64) -> Self {
        Self(id)
    }
}

/// Identity of a worker, unique within its pool and never reused.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct WorkerId(u64);

impl WorkerId {
    /// The identity with this number.
    pub const fn new(id: u64) -> Self {
        Self(id)
    }

    /// The identity as a number.
    pub const fn get(self) -> u64 {
        self.0
    }
}
