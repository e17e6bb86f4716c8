//! What runs in the processes below the parent.
//!
//! A [`zygote`] is started by the parent and forks the workers; a worker's main thread goes through
//! the loop in [`session`], beside which the [`watcher`] waits for the parent's death.

pub mod session;
pub mod watcher;
pub mod zygote;
