//! All that crosses the boundary between two processes.
//!
//! * sockets: a [`frame`] carries a task or its end, a [`payload`] is what a frame carries, large ones
//!   in a [`segment`] of a [`stock`]; [`protocol`] is what a zygote is asked and answers;
//! * the shared [`page`]: a [`claim`] says which task has begun, a [`ring`] carries small results.

pub mod claim;
pub mod frame;
pub mod page;
pub mod payload;
pub mod protocol;
pub mod ring;
pub mod segment;
pub mod stock;
