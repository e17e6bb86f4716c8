//! A worker's second thread, which works when the first does not.
//!
//! It waits for two things: the death of the parent, after which nothing of this worker may be left,
//! and the supervisor's wish that exit handlers be run before a kill. It takes no signals, and never
//! the GIL but for those handlers.

use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;
use std::thread::JoinHandle;

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};

use crate::error::Result;
use crate::sys::bell::Bell;
use crate::sys::pidfd::PidFd;
use crate::sys::waker::Waker;
use crate::sys::{process_tree, signals};
use crate::wire::page::PageUser;

/// How often children that are being forked meanwhile are looked for before the worker itself goes;
/// its zygote finds the rest.
const SWEEPS: usize = 3;

/// What the watcher needs.
#[derive(Debug)]
pub struct Watcher {
    /// The process whose death ends everything.
    pub parent: PidFd,
    /// The supervisor rings it when exit handlers are to run, and is rung when they have.
    pub control: Bell,
    /// The shared page.
    pub page: Arc<PageUser>,
}

impl Watcher {
    /// Watch from now on, in a thread of its own.
    ///
    /// # Errors
    ///
    /// If no thread can be started.
    pub fn start(self, run_exit_handlers: impl Fn() + Send + 'static) -> Result<()> {
        signals::spawn_blocked("deadpool-watch", move || self.watch(run_exit_handlers)).map(drop)
    }

    fn watch(self, run_exit_handlers: impl Fn()) {
        loop {
            let mut fds = [
                PollFd::new(self.parent.as_fd(), PollFlags::POLLIN),
                PollFd::new(self.control.as_fd(), PollFlags::POLLIN),
            ];
            if poll(&mut fds, PollTimeout::NONE).is_err() {
                continue;
            }
            let [parent, control] = fds.map(|fd| fd.revents().unwrap_or(PollFlags::empty()));
            if parent.intersects(PollFlags::POLLNVAL) || control.intersects(PollFlags::POLLNVAL) {
                return; // The task has closed them; the zygote watches the parent as well.
            }
            if parent.intersects(PollFlags::POLLIN | PollFlags::POLLHUP) {
                // A descriptor that the task has put in the place of ours proves nothing.
                if self.parent.signal(0).is_err() {
                    return;
                }
                die();
            }
            if control.intersects(PollFlags::POLLIN) {
                if !self.control.silence() {
                    return; // The task has shut it; a kill does without exit handlers.
                }
                run_exit_handlers();
                self.page.mark_exit_done();
                self.control.ring();
            }
        }
    }
}

/// Watches the parent while something else can't, such as the import of a main module.
#[derive(Debug)]
pub struct ParentWatch {
    stop: Arc<Waker>,
    thread: JoinHandle<()>,
}

impl ParentWatch {
    /// Watch from now on, in a thread of its own: with the parent this process ends, and all below it.
    ///
    /// # Errors
    ///
    /// If no thread or no descriptor can be had.
    pub fn start(parent: OwnedFd) -> Result<Self> {
        let stop = Arc::new(Waker::new()?);
        let stopped = Arc::clone(&stop);
        let watch = move || {
            loop {
                let mut fds = [
                    PollFd::new(parent.as_fd(), PollFlags::POLLIN),
                    PollFd::new(stopped.as_fd(), PollFlags::POLLIN),
                ];
                if poll(&mut fds, PollTimeout::NONE).is_ok() {
                    let [parent, stopped] = fds.map(|fd| fd.any().unwrap_or(true));
                    if stopped {
                        return;
                    }
                    if parent {
                        die();
                    }
                }
            }
        };
        Ok(Self { stop, thread: signals::spawn_blocked("deadpool-watch", watch)? })
    }

    /// Watch no more. **Blocks** until the thread is gone, so that a fork is that of one thread.
    pub fn stop(self) {
        self.stop.wake();
        let _ = self.thread.join();
    }
}

/// End this process and all below it.
pub fn die() -> ! {
    for _ in 0..SWEEPS {
        process_tree::kill_children_of_self(&[]);
    }
    // SAFETY: the call takes no pointer.
    unsafe { libc::kill(libc::getpid(), libc::SIGKILL) };
    // SAFETY: as above; not reached but where SIGKILL takes its time.
    unsafe { libc::_exit(1) }
}
