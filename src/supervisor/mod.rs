//! The loop around the policy: descriptors and clocks in, system calls out.
//!
//! ```text
//!  submit() ──▶ inbox ─┐                                 ┌─▶ sockets ──▶ workers
//!  (or, to an idle     │   ┌──────┐ Event ┌──────┐ Action │
//!   worker, directly) ─┼──▶│ Core │──────▶│ Pool │───────▶├─▶ zygotes  (start, exit status)
//!  sockets, rings  ────┤   └──────┘       └──────┘        ├─▶ signals  (stack, soft limit, kill)
//!  pidfds, timer   ────┘                                  └─▶ completions ──▶ completer
//! ```
//!
//! One thread runs [`run`]. It never takes the GIL, calls no user code and waits for nothing but its
//! own poller. All state is in [`Core`], behind a mutex that is only ever held for a moment, so that a
//! thread which submits to an idle worker can hand the task over itself instead of waking this one.

mod completions;
mod core;
pub mod gate;
pub mod handle;
mod messages;
mod outbox;
mod remote;
mod report;
mod shared;
mod zygotes;

use std::panic::{self, AssertUnwindSafe};
use std::sync::Arc;
use std::time::Duration;

use crate::sys::poller::Events;

pub use self::completions::CompletionReceiver;
pub use self::core::{Core, Settings};
pub use messages::{Command, Completion, Launch, Outcome, Submission, WorkerReport};
use shared::Life;
pub use shared::Shared;
pub(crate) use shared::panic_text;

/// Descriptors handled in one turn; more wait for the next.
const EVENTS_A_TURN: usize = 256;

/// How long nothing may be heard, while somebody waits, before it is looked whether anything can be.
const DEAFNESS_LIMIT: Duration = Duration::from_secs(1);

/// The same while nobody does; after that it sleeps for good, and wants to be woken for a task.
const QUIET_LIMIT: Duration = Duration::from_millis(250);

/// Run a pool until it has terminated.
///
/// A panic in here is a bug; it fails every task that has not ended, and is told to the log, so that
/// nothing waits for ever.
pub fn run<S: Send + Sync + 'static>(shared: &Arc<Shared<S>>) {
    let outcome = panic::catch_unwind(AssertUnwindSafe(|| turn_until_terminated(shared)));
    if let Err(cause) = outcome {
        shared.fail(&panic_text(cause.as_ref()));
    }
}

fn turn_until_terminated<S: Send + Sync + 'static>(shared: &Arc<Shared<S>>) {
    let mut events = Events::with_capacity(EVENTS_A_TURN);
    let mut was_quiet = false;
    loop {
        let mut life = shared.lock();
        let Life::Running(core) = &mut *life else { return };
        core.turn(&events);
        if core.is_terminated() {
            core.finish();
            drop(life);
            shared.end();
            return;
        }
        if core.publish().is_err() {
            drop(life);
            return shared.lose_descriptors();
        }
        let is_awaited = core.is_awaited();
        let sleeps_deep = was_quiet && !is_awaited;
        shared.publish_rest(core, sleeps_deep);
        let (poller, may_sleep) = (core.poller(), core.may_sleep());
        drop(life);
        let heard = match (may_sleep, is_awaited) {
            (false, _) => poller.poll(&mut events),
            (true, true) => poller.wait_at_most(DEAFNESS_LIMIT, &mut events),
            (true, false) if sleeps_deep => poller.wait(&mut events),
            (true, false) => poller.wait_at_most(QUIET_LIMIT, &mut events),
        };
        // A wait that had begun goes on when its descriptors are closed, and the next shows it.
        let heard = heard.and_then(|()| {
            if may_sleep && events.is_empty() { poller.poll(&mut events) } else { Ok(()) }
        });
        was_quiet = may_sleep && events.is_empty();
        if heard.is_err() {
            return shared.lose_descriptors();
        }
        shared.mark_awake();
    }
}
