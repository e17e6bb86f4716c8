//! The native part of `deadpool.Future`, and how the futures of a pool are made and ended.
//!
//! * [`object`]: the object and its state; [`api`]: its methods as Python sees them;
//! * [`link`]: what ties it to its pool and to its task's handle;
//! * [`waiting`]: threads that wait for its end; [`ending`]: its end;
//! * [`decoding`]: from a task's outcome to a result or an exception; [`naming`]: names in messages.

mod api;
mod decoding;
mod ending;
mod link;
mod naming;
mod object;
mod waiting;

pub(super) use api::register;
pub(super) use ending::{Interrupts, fail, interrupted, settle, started};
pub(super) use link::{CompleterThread, Link, PySide, new_task};
pub(super) use naming::task_name;
pub(super) use object::{End, FutureBase};
