//! What the two Python threads of a pool run.
//!
//! The completer settles futures, a batch at a time; the launcher asks for its next job here and does
//! it in Python. Neither knows the `Deadpool` object, so that can be collected while they run.

use std::os::fd::IntoRawFd;
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::thread::{self, JoinHandle, ThreadId};

use crossbeam_channel::Receiver;
use pyo3::prelude::*;

use crate::event::Shutdown;
use crate::handle::Taker;
use crate::payload::Payload;
use crate::stock::Stock;
use crate::supervisor::{Command, Completion, Launch, Shared};

use super::settle::{self, PySide};

/// Completions handled before other threads may have the GIL.
const BATCH: usize = 512;

/// Adds the classes to the module.
pub(super) fn register(module: &Bound<'_, PyModule>) -> PyResult<()> {
    module.add_class::<Completer>()?;
    module.add_class::<Launcher>()
}

/// Who is told of the processes of workers.
struct Observer<'a, 'py> {
    on_up: Option<&'a Bound<'py, PyAny>>,
    on_down: Option<&'a Bound<'py, PyAny>>,
}

impl Observer<'_, '_> {
    fn up(&self, pid: u32) {
        if let Some(callback) = self.on_up
            && let Err(error) = callback.call1((pid,))
        {
            error.write_unraisable(callback.py(), Some(callback));
        }
    }

    fn down(&self, pid: u32, exitcode: Option<i32>) {
        if let Some(callback) = self.on_down
            && let Err(error) = callback.call1((pid, exitcode))
        {
            error.write_unraisable(callback.py(), Some(callback));
        }
    }
}

/// Which thread settles the futures of a pool, for those who may be called back in it.
#[derive(Default)]
pub(super) struct CompleterThread(OnceLock<ThreadId>);

impl CompleterThread {
    pub(super) fn is_current(&self) -> bool {
        self.0.get().is_some_and(|&id| id == thread::current().id())
    }
}

/// Settles the futures of one pool.
#[pyclass(module = "deadpool._core", frozen)]
pub struct Completer {
    completions: Receiver<Completion<PySide>>,
    supervisor: Mutex<Option<JoinHandle<()>>>,
    thread: Arc<CompleterThread>,
    stock: Arc<Stock>,
}

impl Completer {
    pub(super) fn new(
        completions: Receiver<Completion<PySide>>,
        supervisor: JoinHandle<()>,
        thread: Arc<CompleterThread>,
        stock: Arc<Stock>,
    ) -> Self {
        Self { completions, supervisor: Mutex::new(Some(supervisor)), thread, stock }
    }

    /// Returns whether there may be more.
    fn complete(
        &self,
        py: Python<'_>,
        completion: Completion<PySide>,
        observer: &Observer<'_, '_>,
    ) -> bool {
        match completion {
            Completion::End(handle) => {
                if let Some(outcome) = handle.take(Taker::Completer) {
                    settle::settle(py, &handle, outcome);
                }
            }
            Completion::Began(handle, pid) => settle::started(py, &handle, pid),
            Completion::Interrupted(handle) => settle::interrupted(py, &handle),
            Completion::WorkerUp(pid) => observer.up(pid),
            Completion::WorkerDown(pid, exit) => observer.down(pid, exit.exitcode()),
            Completion::Log(level, message) => {
                log::log!(target: "deadpool::supervisor", level, "{message}");
            }
            Completion::Sync(done) => drop(done),
            Completion::Terminated => return false,
            Completion::Deserted => {
                // Without its thread, which nobody could wait for.
                self.supervisor.lock().unwrap_or_else(PoisonError::into_inner).take();
                return false;
            }
        }
        true
    }
}

#[pymethods]
impl Completer {
    /// Settle futures until the pool has terminated. **Blocks**; for a thread of its own.
    ///
    /// Calls `on_up(pid)` and `on_down(pid, exitcode)` for each worker process.
    #[pyo3(signature = (on_up = None, on_down = None))]
    fn run(
        &self,
        py: Python<'_>,
        on_up: Option<&Bound<'_, PyAny>>,
        on_down: Option<&Bound<'_, PyAny>>,
    ) {
        self.thread.0.get_or_init(|| thread::current().id());
        let observer = Observer { on_up, on_down };
        let mut goes_on = true;
        while goes_on {
            let Ok(first) = py.detach(|| self.completions.recv()) else { break };
            goes_on = self.complete(py, first, &observer);
            for next in self.completions.try_iter().take(BATCH) {
                goes_on &= self.complete(py, next, &observer);
            }
        }
        // Futures may be kept for long, and with them what pickled their calls.
        self.stock.close();
        let thread = self.supervisor.lock().unwrap_or_else(PoisonError::into_inner).take();
        if let Some(thread) = thread {
            // It has said its last word; a panic of it was told before.
            let _ = py.detach(|| thread.join());
        }
    }
}

/// Starts the zygotes of one pool.
#[pyclass(module = "deadpool._core", frozen)]
pub struct Launcher {
    launches: Receiver<Launch>,
    shared: Arc<Shared<PySide>>,
}

impl Launcher {
    pub(super) fn new(launches: Receiver<Launch>, shared: Arc<Shared<PySide>>) -> Self {
        Self { launches, shared }
    }
}

#[pymethods]
impl Launcher {
    /// Wait for the next job. **Blocks**; for a thread of its own.
    ///
    /// Returns the number of a zygote with the descriptor of its control socket, which is the caller's
    /// from then on; a number with `None` for a zygote that is to be waited for; 0 with `None` when
    /// `tell_environ` is to be called; `None` when there will be no more.
    fn next(&self, py: Python<'_>) -> Option<(u64, Option<i32>)> {
        match py.detach(|| self.launches.recv()) {
            Ok(Launch::Zygote { zygote, control }) => Some((zygote, Some(control.into_raw_fd()))),
            Ok(Launch::Reap(zygote)) => Some((zygote, None)),
            Ok(Launch::LookAtEnviron) => Some((0, None)),
            Ok(Launch::Stop) | Err(_) => None,
        }
    }

    /// Let the pool finish what was submitted, and end.
    fn close(&self) {
        let (done, _) = crossbeam_channel::bounded(0);
        self.shared.gate().close();
        self.shared.post(Command::Shutdown(Shutdown::Drain, done));
    }

    /// Say how the environment that workers get has changed, pickled; `None` if it has not.
    fn tell_environ(&self, changes: Option<Vec<u8>>) {
        self.shared.post(Command::Environ(changes.map(Payload::from)));
    }

    /// Say that a zygote was started.
    fn launched(&self, zygote: u64, pid: u32) {
        self.shared.post(Command::Launched { zygote, result: Ok(pid) });
    }

    /// Say that a zygote could not be started.
    fn failed(&self, zygote: u64, reason: String) {
        self.shared.post(Command::Launched { zygote, result: Err(reason) });
    }

    /// The descriptors of the supervisor, which a forked child has copies of and must close.
    fn descriptors(&self, py: Python<'_>) -> Vec<i32> {
        py.detach(|| self.shared.descriptors())
    }
}
