//! What reaches the policy, and what it answers.
//!
//! `B` is what the caller keeps with each task (its payload and its future): the policy carries it
//! and hands it back exactly once, with the task's end, so that a task can't be lost without a
//! compiler or a test noticing.

use std::time::Duration;

use crate::exit_status::ExitStatus;
use crate::ids::{TaskId, WorkerId};
use crate::outcome::Outcome;
use crate::task::TaskSpec;
use crate::time::Time;

/// How a pool is ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Shutdown {
    /// Everything that was submitted runs first.
    Drain,
    /// What runs is finished, what waits is cancelled.
    CancelWaiting,
    /// What waits is cancelled, what runs is told to go, which it may do in its own way, and cancelled.
    Terminate,
    /// What waits is cancelled, what runs is killed and cancelled.
    CancelAll,
    /// As `CancelAll`, and idle workers are killed without their finalizers.
    Kill,
}

/// Something that happened.
#[derive(Debug)]
pub enum Event<B, P> {
    /// A task was submitted.
    Submit(TaskSpec, B),
    /// Its caller gave up on a task; `kill` stops it if it runs.
    Cancel {
        /// The task.
        task: TaskId,
        /// The signal to stop it with if it runs.
        kill: Option<i32>,
    },
    /// Somebody wants to be told when this task begins.
    WatchStart(TaskId),
    /// The process of a worker exists.
    Forked {
        /// The worker.
        worker: WorkerId,
        /// Its process.
        pid: u32,
    },
    /// A worker has run its initializer and waits for tasks.
    Ready(WorkerId),
    /// The initializer raised in a pool that minds, and the worker goes.
    InitializerFailed {
        /// The worker.
        worker: WorkerId,
        /// The pickled exception.
        exception: P,
    },
    /// The process of a worker could not be started.
    StartFailed {
        /// The worker.
        worker: WorkerId,
        /// What went wrong.
        reason: String,
    },
    /// A task came back.
    Finished {
        /// The worker that ran it.
        worker: WorkerId,
        /// Its number there.
        seq: u32,
        /// What it brought.
        outcome: Outcome<P>,
        /// Whether the worker asks to be replaced, because it holds too much memory.
        recycle: bool,
    },
    /// The worker read a task that had been taken back, so it is alive.
    Alive(WorkerId),
    /// A worker's process is gone; all that it had sent was handled before.
    Exited {
        /// The worker.
        worker: WorkerId,
        /// How it went.
        exit: ExitStatus,
    },
    /// A worker sent something that can't be right.
    Condemned {
        /// The worker.
        worker: WorkerId,
        /// What was wrong.
        reason: String,
    },
    /// A worker has written its stack down.
    StackDone(WorkerId),
    /// A worker's exit handlers have run.
    ExitHandlersDone(WorkerId),
    /// The memory of a worker's tree.
    MemorySampled {
        /// The worker.
        worker: WorkerId,
        /// The number of the task that it was asked for.
        seq: u32,
        /// What the tree uses.
        used_bytes: u64,
    },
    /// Time has passed.
    Timer,
    /// The pool gets another size.
    Resize {
        /// The new upper bound.
        max_workers: usize,
        /// The new lower bound.
        min_workers: usize,
    },
    /// All workers are to be replaced.
    ClearWorkers,
    /// The pool is to end.
    Shutdown(Shutdown),
}

/// Something that is to be done.
#[derive(Debug)]
#[must_use]
pub enum Action<B, P> {
    /// Start the process of a new worker.
    Start(WorkerId),
    /// Send a task to a worker.
    Send {
        /// The worker.
        worker: WorkerId,
        /// The task.
        task: TaskId,
        /// Its number there.
        seq: u32,
    },
    /// A task that was sent came back to the backlog.
    Recalled(TaskId),
    /// A task that somebody watches has begun.
    Began {
        /// The task.
        task: TaskId,
        /// The worker that runs it.
        worker: WorkerId,
    },
    /// Tell a worker to run its finalizer and go.
    Retire(WorkerId),
    /// Have a worker write its stack down.
    CaptureStack(WorkerId),
    /// Have a worker run the exit handlers of user code.
    RunExitHandlers(WorkerId),
    /// Raise the soft timeout inside a task.
    Interrupt {
        /// The worker.
        worker: WorkerId,
        /// The number of the task.
        seq: u32,
    },
    /// Do so again if it was not raised, since the signal may have come at a moment when nobody looks.
    InterruptAgain {
        /// The worker.
        worker: WorkerId,
        /// The number of the task.
        seq: u32,
    },
    /// Send a signal to a worker's tree.
    Signal {
        /// The worker.
        worker: WorkerId,
        /// The signal.
        signal: i32,
    },
    /// Kill a worker's tree.
    Kill(WorkerId),
    /// Have whoever is to make a worker's process go on, if somebody has stopped it.
    Nudge(WorkerId),
    /// Collect the results that a worker has written, without waiting to be told.
    Collect(WorkerId),
    /// Look at the memory of a worker's tree.
    Sample {
        /// The worker.
        worker: WorkerId,
        /// The number of the task that it is for.
        seq: u32,
        /// The limit in force, if one is.
        limit_bytes: Option<u64>,
    },
    /// A task has ended.
    End {
        /// What the caller kept with it.
        baggage: B,
        /// How it ended.
        outcome: Outcome<P>,
        /// The worker to report on, if it ended with one.
        worker: Option<WorkerId>,
    },
    /// Release all that belongs to a worker.
    Forget(WorkerId),
    /// Say something in the log.
    Log(log::Level, String),
    /// The pool is closed and all of its workers are gone.
    Terminated,
}

/// What the policy may ask of the pages that it shares with the workers, without a system call.
pub trait Claims {
    /// Take a task back. Returns whether it had not begun, and now never will there.
    fn revoke(&mut self, worker: WorkerId, seq: u32) -> bool;

    /// When a task began, or `None` if it has not.
    fn started(&self, worker: WorkerId, seq: u32) -> Option<Time>;

    /// How long a task took whose result came, where the worker has written that down.
    fn took(&self, worker: WorkerId, seq: u32) -> Option<Duration>;

    /// Whether user code in the worker registered exit handlers.
    fn has_exit_handlers(&self, worker: WorkerId) -> bool;
}
