//! What settles futures, a batch at a time: in a thread of the pool, or where an event loop is told to.
//!
//! It does not know the `Deadpool` object, so that can be collected while it goes on.
//!
//! Invariants:
//!
//! - Completions are handled in their order, by one at a time: the event loop until the thread has
//!   taken over, the thread from then on.
//! - Who has seen the last one says so, and nobody waits for another.

use std::panic::{self, AssertUnwindSafe};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;

use pyo3::prelude::*;

use crate::supervisor::handle::Taker;
use crate::supervisor::{Completion, CompletionReceiver, panic_text};
use crate::wire::stock::Stock;

use super::future::{self, CompleterThread, Interrupts, PySide};

/// Completions handled before other threads may have the GIL.
const BATCH: usize = 512;

/// Adds the class to the module.
pub(super) fn register(module: &Bound<'_, PyModule>) -> PyResult<()> {
    module.add_class::<Completer>()
}

/// Who is told of the processes of workers.
struct Observer<'a, 'py> {
    on_up: Option<&'a Bound<'py, PyAny>>,
    on_down: Option<&'a Bound<'py, PyAny>>,
    interrupts: Interrupts,
}

impl Observer<'_, '_> {
    fn up(&self, pid: u32) -> PyResult<()> {
        let Some(callback) = self.on_up else { return Ok(()) };
        callback.call1((pid,)).map(drop).or_else(|error| self.deal_with(callback, error))
    }

    fn down(&self, pid: u32, exitcode: Option<i32>) -> PyResult<()> {
        let Some(callback) = self.on_down else { return Ok(()) };
        callback.call1((pid, exitcode)).map(drop).or_else(|error| self.deal_with(callback, error))
    }

    fn deal_with(&self, callback: &Bound<'_, PyAny>, error: PyErr) -> PyResult<()> {
        let py = callback.py();
        if self.interrupts.is_to_raise(py, &error) {
            return Err(error);
        }
        error.write_unraisable(py, Some(callback));
        Ok(())
    }
}

/// Whose completions they are, and whether there will be more.
#[derive(Default)]
struct Turn {
    has_thread: bool,
    has_ended: bool,
}

/// Settles the futures of one pool.
#[pyclass(module = "deadpool._core", frozen)]
pub struct Completer {
    completed: CompletionReceiver<PySide>,
    // Held to take one, and for nothing else.
    turn: Mutex<Turn>,
    supervisor: Mutex<Option<JoinHandle<()>>>,
    thread: Arc<CompleterThread>,
    stock: Arc<Stock>,
}

impl Completer {
    pub(super) fn new(
        completed: CompletionReceiver<PySide>,
        supervisor: JoinHandle<()>,
        thread: Arc<CompleterThread>,
        stock: Arc<Stock>,
    ) -> Self {
        let supervisor = Mutex::new(Some(supervisor));
        Self { completed, turn: Mutex::default(), supervisor, thread, stock }
    }

    fn turn(&self) -> MutexGuard<'_, Turn> {
        self.turn.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What has come, if anything has and it is not for the thread.
    fn next_for_loop(&self) -> Option<Completion<PySide>> {
        let mut turn = self.turn();
        let next = if turn.has_thread { None } else { self.completed.next() };
        turn.has_ended |= next.as_ref().is_some_and(Completion::is_last);
        next
    }

    fn complete(
        &self,
        py: Python<'_>,
        completion: Completion<PySide>,
        observer: &Observer<'_, '_>,
    ) -> PyResult<()> {
        let interrupts = observer.interrupts;
        match completion {
            Completion::End(handle) => {
                if let Some(outcome) = handle.take(Taker::Completer) {
                    let settle = || future::settle(py, &handle, outcome, interrupts);
                    // The others' futures must end whatever becomes of this one.
                    return panic::catch_unwind(AssertUnwindSafe(settle))
                        .unwrap_or_else(|cause| future::fail(py, &handle, &panic_text(&*cause)));
                }
            }
            Completion::Began(handle, pid) => {
                return future::started(py, &handle, pid, interrupts);
            }
            Completion::Interrupted(handle) => {
                return future::interrupted(py, &handle, interrupts);
            }
            Completion::WorkerUp(pid) => return observer.up(pid),
            Completion::WorkerDown(pid, exit) => return observer.down(pid, exit.exitcode()),
            Completion::Log(level, message) => {
                log::log!(target: "deadpool::supervisor", level, "{message}");
            }
            Completion::Sync(done) => drop(done),
            Completion::Terminated => {
                // It has said its last word; a panic of it was told before.
                if let Some(thread) = self.supervisor() {
                    let _ = py.detach(|| thread.join());
                }
                self.finish();
            }
            Completion::Deserted => {
                // Nobody could wait for its thread.
                drop(self.supervisor());
                self.finish();
            }
        }
        Ok(())
    }

    fn supervisor(&self) -> Option<JoinHandle<()>> {
        self.supervisor.lock().unwrap_or_else(PoisonError::into_inner).take()
    }

    fn finish(&self) {
        // Futures may be kept for long, and with them what pickled their calls.
        self.stock.close();
    }
}

#[pymethods]
impl Completer {
    /// Settle futures until the pool has terminated, and tell of its worker processes. Blocks.
    #[pyo3(signature = (on_up = None, on_down = None))]
    fn run(
        &self,
        py: Python<'_>,
        on_up: Option<&Bound<'_, PyAny>>,
        on_down: Option<&Bound<'_, PyAny>>,
    ) -> PyResult<()> {
        self.thread.become_current();
        let observer = Observer { on_up, on_down, interrupts: Interrupts::Logged };
        let mut goes_on = {
            let mut turn = self.turn();
            turn.has_thread = true;
            !turn.has_ended
        };
        while goes_on {
            let Ok(first) = py.detach(|| self.completed.wait()) else { break };
            let mut next = Some(first);
            for _ in 0..BATCH {
                let Some(completion) = next.or_else(|| self.completed.next()) else { break };
                goes_on &= !completion.is_last();
                self.complete(py, completion, &observer)?;
                next = None;
            }
        }
        self.turn().has_ended = true;
        Ok(())
    }

    /// Settle the futures whose tasks have ended, where no thread does it.
    ///
    /// Does not block. To be called by the thread of an event loop, whenever the bell has rung. What
    /// callbacks raise that is no ``Exception`` is raised in the end, the first of it.
    #[pyo3(signature = (on_up = None, on_down = None))]
    fn run_ready(
        &self,
        py: Python<'_>,
        on_up: Option<&Bound<'_, PyAny>>,
        on_down: Option<&Bound<'_, PyAny>>,
    ) -> PyResult<()> {
        if self.turn().has_thread {
            return Ok(());
        }
        self.thread.become_current();
        let observer = Observer { on_up, on_down, interrupts: Interrupts::Raised };
        self.completed.answer();
        let mut completed = Ok(());
        // What comes meanwhile rings again.
        for _ in 0..self.completed.count() {
            let Some(completion) = self.next_for_loop() else { break };
            completed = completed.and(self.complete(py, completion, &observer));
        }
        completed
    }

    /// Return whether nothing is left to be settled, and nothing will be.
    fn has_ended(&self) -> bool {
        self.turn().has_ended
    }
}
