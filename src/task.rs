//! What a task is to the pool: an identity, its place in the queue and its limits.
//!
//! The call itself is opaque bytes that only the worker reads; see `wire::payload`.

use std::time::Duration;

use crate::ids::TaskId;

/// Order in which waiting tasks are chosen: 0 is the highest.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Priority(pub u32);

/// What a task may use, and how often it may be tried.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Limits {
    /// From the start of the task to its end; over it the worker is killed.
    pub timeout: Option<Duration>,
    /// From the start of the task to the exception raised inside it.
    pub soft_timeout: Option<Duration>,
    /// Memory of the worker's whole process tree while the task runs.
    pub memory_limit_bytes: Option<u64>,
    /// How many more times the task may run after its worker died.
    pub retries: u32,
}

/// A task as the policy sees it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TaskSpec {
    /// Its identity.
    pub id: TaskId,
    /// Its place among the waiting.
    pub priority: Priority,
    /// Its limits.
    pub limits: Limits,
    /// Whether somebody wants to know when it begins.
    pub watched: bool,
    /// Whether it was taken back on its way to the pool: it ends at once.
    pub cancelled_early: bool,
}
