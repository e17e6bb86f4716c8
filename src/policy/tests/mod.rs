//! The promises of the policy, tested against a model of the world outside.
//!
//! [`model`] plays the processes and the pages shared with them, [`sim`] the supervisor: it feeds
//! events, carries out actions, and checks after each event what must always hold. [`random`]
//! drives both with arbitrary histories; the other files tell one story a test.

mod carry_out;
mod checks;
mod fair;
mod model;
mod random;
mod sim;
mod stories_of_deadlines;
mod stories_of_shutdown;
mod stories_of_tasks;
mod stories_of_workers;
