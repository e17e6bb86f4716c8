//! How a future ends: its state, its waiters, its callbacks.

use std::cell::RefCell;
use std::ptr;

use pyo3::exceptions::PyException;
use pyo3::intern;
use pyo3::prelude::*;
use pyo3::types::PyList;

use crate::python::stdlib;
use crate::supervisor::Outcome;

use super::decoding::decode;
use super::link::Handle;
use super::object::{End, FutureBase};

/// What becomes of an exception out of a callback that is no `Exception`, such as Ctrl-C; the others
/// are logged.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Interrupts {
    /// It is logged: there is nobody to raise it to.
    Logged,
    /// It is raised in the calling thread.
    Raised,
}

impl Interrupts {
    pub(in crate::python) fn is_to_raise(self, py: Python<'_>, error: &PyErr) -> bool {
        self == Self::Raised && !error.is_instance_of::<PyException>(py)
    }

    fn deal_with(self, future: &Bound<'_, FutureBase>, logger: &str, error: PyErr) -> PyResult<()> {
        let py = future.py();
        if self.is_to_raise(py, &error) {
            return Err(error);
        }
        stdlib::log_exception(py, logger, "exception calling callback for %r", future, error);
        Ok(())
    }
}

/// Ends the task's future, tells its waiters and runs its callbacks. Does nothing if it has ended.
pub fn settle(
    py: Python<'_>,
    handle: &Handle,
    outcome: Outcome,
    interrupts: Interrupts,
) -> PyResult<()> {
    let Some(future) = handle.side().future(py) else { return Ok(()) };
    settle_here(future.bind(py), handle, outcome)
        .or_else(|error| interrupts.deal_with(future.bind(py), stdlib::FUTURES_LOGGER, error))
}

thread_local! {
    /// The handles whose outcomes this thread is unpickling, the innermost last.
    static READING: RefCell<Vec<*const Handle>> = const { RefCell::new(Vec::new()) };
}

/// Marks a handle as one whose outcome the calling thread is unpickling.
struct Reading;

impl Reading {
    fn begin(handle: &Handle) -> Self {
        READING.with_borrow_mut(|reading| reading.push(ptr::from_ref(handle)));
        Self
    }
}

impl Drop for Reading {
    fn drop(&mut self) {
        READING.with_borrow_mut(Vec::pop);
    }
}

/// Whether the calling thread is unpickling the outcome of this handle, and so can't wait for it.
pub(super) fn is_reading(handle: &Handle) -> bool {
    READING.with_borrow(|reading| reading.contains(&ptr::from_ref(handle)))
}

/// As [`settle`], for a thread that waits: whatever is not dealt with inside gets out.
pub(super) fn settle_here(
    future: &Bound<'_, FutureBase>,
    handle: &Handle,
    outcome: Outcome,
) -> PyResult<()> {
    let (end, interrupt) = {
        let _reading = Reading::begin(handle);
        decode(future.py(), handle, outcome)
    };
    let finished = FutureBase::finish(future, end);
    interrupt.map_or(Ok(()), Err)?;
    finished.map(drop)
}

/// Ends the future of a task whose outcome could not be told, because of a panic that said `cause`.
pub fn fail(py: Python<'_>, handle: &Handle, cause: &str) -> PyResult<()> {
    let Some(future) = handle.side().future(py) else { return Ok(()) };
    let message =
        format!("the end of a task could not be told; this is a bug of deadpool: {cause}");
    let error = py.import("deadpool._failures")?.call_method1("process_error", (message, ""))?;
    FutureBase::finish(future.bind(py), End::Raised(error.unbind())).map(drop)
}

/// Says that the task began in the process `pid`, and runs the callbacks that wait for that.
pub fn started(py: Python<'_>, handle: &Handle, pid: u32, interrupts: Interrupts) -> PyResult<()> {
    handle.set_pid(Some(pid));
    let Some(future) = handle.side().future(py) else { return Ok(()) };
    let Some(callbacks) = future.get().take_pid_callbacks() else { return Ok(()) };
    let (future, logger) = (future.bind(py), stdlib::DEADPOOL_LOGGER);
    call_all(future, callbacks.bind(py), logger)
        .or_else(|error| interrupts.deal_with(future, logger, error))
}

/// Says that the soft timeout of the task has passed, and runs the callbacks that wait for that.
pub fn interrupted(py: Python<'_>, handle: &Handle, interrupts: Interrupts) -> PyResult<()> {
    let Some(future) = handle.side().future(py) else { return Ok(()) };
    let Some(callbacks) = future.get().pass_soft_timeout() else { return Ok(()) };
    let (future, logger) = (future.bind(py), stdlib::DEADPOOL_LOGGER);
    call_all(future, callbacks.bind(py), logger)
        .or_else(|error| interrupts.deal_with(future, logger, error))
}

impl FutureBase {
    /// Ends the future and tells everybody, in the calling thread. `false` if it had ended before.
    ///
    /// An `Exception` from a callback is logged; another `BaseException` is returned, after the
    /// rest was called.
    pub(in crate::python) fn finish(slf: &Bound<'_, Self>, end: End) -> PyResult<bool> {
        let (py, this) = (slf.py(), slf.get());
        let notification = end.notification();
        let traceback = match &end {
            End::Raised(exception) => stdlib::traceback(exception.bind(py)),
            _ => None,
        };
        let mut condition: Option<Bound<'_, PyAny>> = None;
        let mut interrupt: Option<PyErr> = None;
        let aftermath = loop {
            let mut inner = this.lock();
            if inner.state.is_done() {
                drop(inner);
                release(condition.as_ref())?;
                return Ok(false);
            }
            let made = inner.extras.as_ref().and_then(|extras| extras.condition.as_ref());
            match made {
                // What isn't an interrupt comes again: a future without its lock is better than none.
                Some(made) if condition.is_none() && !is_exception(py, interrupt.as_ref()) => {
                    let made = made.clone_ref(py).into_bound(py);
                    drop(inner);
                    match made.call_method0(intern!(py, "acquire")) {
                        Ok(_) => condition = Some(made),
                        // Ctrl-C must not lose the outcome: it is raised when the future has ended.
                        Err(error) => interrupt = Some(error),
                    }
                }
                _ => break inner.end(py, end, traceback),
            }
        };
        if let Some(handle) = &aftermath.handle {
            handle.mark_settled();
            // What the handle kept alive goes here, outside of every lock.
            drop(handle.side().release());
        }
        let told = match (&aftermath.waiters, notification) {
            (Some(waiters), Some(method)) => tell_waiters(slf, waiters.bind(py), method),
            _ => Ok(()),
        };
        release(condition.as_ref())?;
        for (callbacks, logger) in [
            (&aftermath.pid_callbacks, stdlib::DEADPOOL_LOGGER),
            (&aftermath.callbacks, stdlib::FUTURES_LOGGER),
        ] {
            if let Some(callbacks) = callbacks {
                interrupt = call_all(slf, callbacks.bind(py), logger).err().or(interrupt);
            }
        }
        told?;
        interrupt.map_or(Ok(true), Err)
    }
}

/// Calls `callback(future)`. An `Exception` is logged, another `BaseException` is returned.
pub(super) fn call_back(
    future: &Bound<'_, FutureBase>,
    callback: &Bound<'_, PyAny>,
    logger: &str,
) -> PyResult<()> {
    let py = future.py();
    match callback.call1((future,)) {
        Err(error) if error.is_instance_of::<PyException>(py) => {
            stdlib::log_exception(py, logger, "exception calling callback for %r", future, error);
            Ok(())
        }
        called => called.map(drop),
    }
}

/// Calls all callbacks in order; returns the first error that is not an `Exception`.
pub(super) fn call_all(
    future: &Bound<'_, FutureBase>,
    callbacks: &Bound<'_, PyList>,
    logger: &str,
) -> PyResult<()> {
    let mut result = Ok(());
    for callback in callbacks {
        result = result.and(call_back(future, &callback, logger));
    }
    result
}

fn tell_waiters(
    future: &Bound<'_, FutureBase>,
    waiters: &Bound<'_, PyList>,
    method: &str,
) -> PyResult<()> {
    let mut result = Ok(());
    for waiter in waiters {
        result = result.and(waiter.call_method1(method, (future,)).map(drop));
    }
    result
}

fn is_exception(py: Python<'_>, error: Option<&PyErr>) -> bool {
    error.is_some_and(|error| error.is_instance_of::<PyException>(py))
}

fn release(condition: Option<&Bound<'_, PyAny>>) -> PyResult<()> {
    let Some(condition) = condition else { return Ok(()) };
    let py = condition.py();
    let notified = condition.call_method0(intern!(py, "notify_all"));
    condition.call_method0(intern!(py, "release"))?;
    notified.map(drop)
}
