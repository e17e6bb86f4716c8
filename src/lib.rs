//! The core of Deadpool, a process pool that is really hard to kill.
//!
//! Dependencies point one way: `python → supervisor → {pool, sys}`; `pool` is pure policy and never
//! sees `sys`, pyo3 or a real clock. `child` is what runs inside zygotes and workers.

pub mod backlog;
pub mod child;
pub mod config;
pub mod deadline;
pub mod error;
pub mod event;
pub mod frame;
pub mod gate;
pub mod handle;
pub mod outcome;
pub mod payload;
pub mod pool;
#[cfg(feature = "python")]
mod python;
pub mod stats;
pub mod stock;
pub mod supervisor;
pub mod sys;
pub mod task;
pub mod time;
pub mod worker;
