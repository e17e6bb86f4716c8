//! The messages between the supervisor and the threads that know Python.

use std::os::fd::OwnedFd;
use std::sync::Arc;

use crossbeam_channel::Sender;

use crate::exit_status::ExitStatus;
use crate::ids::{TaskId, WorkerId};
use crate::outcome;
use crate::policy::event::Shutdown;
use crate::supervisor::handle::TaskHandle;
use crate::task::TaskSpec;
use crate::wire::payload::Payload;

/// How a task ended, with what its worker sent.
pub type Outcome = outcome::Outcome<Payload>;

/// A task on its way in. `S` is what its future keeps beside the handle.
#[derive(Debug)]
pub struct Submission<S> {
    /// What the policy needs to know.
    pub spec: TaskSpec,
    /// The pickled call.
    pub payload: Payload,
    /// Where its end goes.
    pub handle: Arc<TaskHandle<S>>,
}

/// Something that another thread wants of the supervisor.
#[derive(Debug)]
pub enum Command<S> {
    /// Run a task that has its place in the backlog.
    Submit(Submission<S>),
    /// Count a task that ended before it could be submitted, because it could not be pickled.
    CountUnpicklable,
    /// Give up a task, and stop it with a signal if it runs and one is given.
    Cancel(TaskId, Option<i32>),
    /// Tell when a task begins.
    WatchStart(TaskId),
    /// A zygote that was asked for was started, or not.
    Launched {
        /// Which.
        zygote: u64,
        /// Its process, or what went wrong.
        result: std::result::Result<u32, String>,
    },
    /// The environment that workers get before their first task, if it has changed.
    Environ(Option<Payload>),
    /// Change the size.
    Resize {
        /// The new upper bound.
        max_workers: usize,
        /// The new lower bound.
        min_workers: usize,
    },
    /// The memory of a worker's tree, as far as that could be found out.
    MemoryJudged {
        /// The worker.
        worker: WorkerId,
        /// The number of the task that it was asked for.
        seq: u32,
        /// What the tree uses.
        used_bytes: u64,
    },
    /// Replace all workers.
    ClearWorkers,
    /// End the pool, and drop the sender when the futures that this cancels have ended.
    Shutdown(Shutdown, Sender<()>),
}

/// Something for the completer, which may take the GIL.
#[derive(Debug)]
pub enum Completion<S> {
    /// A task has ended; its outcome is in the handle, if no other thread took it.
    End(Arc<TaskHandle<S>>),
    /// A task that is watched has begun, on this process.
    Began(Arc<TaskHandle<S>>, u32),
    /// The soft timeout of a task has passed.
    Interrupted(Arc<TaskHandle<S>>),
    /// The process of a worker exists.
    WorkerUp(u32),
    /// The process of a worker is gone.
    WorkerDown(u32, ExitStatus),
    /// A line for the log.
    Log(log::Level, String),
    /// Drop the sender when everything before this has been done.
    Sync(Sender<()>),
    /// There will be nothing more.
    Terminated,
    /// There will be nothing more, and the supervisor's thread may sleep on for ever.
    Deserted,
}

impl<S> Completion<S> {
    /// Whether there will be nothing more.
    pub const fn is_last(&self) -> bool {
        matches!(self, Self::Terminated | Self::Deserted)
    }
}

/// Something for the launcher, which starts processes through Python.
#[derive(Debug)]
pub enum Launch {
    /// Start a zygote.
    Zygote {
        /// Which.
        zygote: u64,
        /// Its end of its control socket.
        control: OwnedFd,
    },
    /// The process of a zygote is gone, or soon will be: wait for it.
    Reap(u64),
    /// A worker is being made: look whether the environment that workers get has changed.
    LookAtEnviron,
    /// There will be nothing more.
    Stop,
}

/// A worker, as it is shown to users.
#[derive(Debug)]
pub struct WorkerReport<S> {
    /// Its process, once there is one.
    pub pid: Option<u32>,
    /// `starting`, `idle`, `busy`, `retiring` or `stopping`.
    pub state: &'static str,
    /// What it runs, and for how many seconds.
    pub task: Option<(Arc<TaskHandle<S>>, f64)>,
    /// How many tasks ended on it.
    pub tasks_done: u64,
    /// Its resident memory.
    pub rss_bytes: Option<u64>,
}
