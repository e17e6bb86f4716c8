//! The core of Deadpool, a process pool that is really hard to kill.
//!
//! Dependencies point one way: `python → supervisor → {pool, sys}`; `pool` is pure policy and never
//! sees `sys`, pyo3 or a real clock. `child` is what runs inside zygotes and workers.

pub mod child;
pub mod error;
pub mod exit_status;
pub mod fallible;
pub mod ids;
pub mod outcome;
pub mod policy;
#[cfg(feature = "python")]
mod python;
pub mod supervisor;
pub mod sys;
pub mod task;
pub mod time;
pub mod wire;
