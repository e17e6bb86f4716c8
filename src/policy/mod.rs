//! All policy: which task goes where, when a worker is started, stopped or replaced.
//!
//! [`Pool::handle`] is a state machine. It makes no system call, reads no clock and knows no
//! Python; what it wants done it says in [actions](event::Action), and what it must know of the shared pages it
//! asks through [`Claims`](event::Claims). Invariants, which the tests hold under random event sequences:
//!
//! * a task ends exactly once: its baggage leaves in exactly one [`Action::End`](event::Action::End);
//! * a task that has begun is sent again only if it has retries left and its worker died;
//! * a task is with one worker at most, and only the first with a worker can be running;
//! * no more than `max_workers` workers have tasks;
//! * nothing is waited for without a timer or an event that must come.
//!
//! The parts: [`dispatch`] sends tasks, [`finish`] takes their ends, [`lifecycle`] follows the
//! workers from start to exit, [`sizing`] decides how many there are, [`due`] does what is due
//! about a worker, [`stopping`] ends one against its will.

mod backlog;
mod backoff;
mod census;
pub mod config;
mod dispatch;
mod due;
pub mod event;
mod finish;
mod lifecycle;
mod pace;
mod pool;
mod shutdown;
mod sizing;
pub mod statistics;
mod stopping;
#[cfg(test)]
mod tests;
mod timers;
pub mod worker;

pub use pool::Pool;
