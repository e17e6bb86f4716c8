//! The native part of `deadpool.Future`.
//!
//! `class Future(FutureBase, concurrent.futures.Future)`: every method of the standard library's
//! future is replaced, and what its constructor would set is a property made when somebody asks.
//! Its `Condition` alone costs ten times what this whole object does, and most futures never need
//! one: a thread that waits in `result()` sleeps on the word of the task's handle instead.
//!
//! Invariants:
//!
//! - The state goes from pending to ended once, in [`FutureBase::finish`]. The value is set with it.
//! - The inner lock is held for moves only: nothing is allocated, dropped or called under it that
//!   could run Python code.
//! - Where a `Condition` was made, the state changes under it too: the standard library's `wait` and
//!   `as_completed` hold it while they look at the state and add their waiter.
//! - A pool's future holds its handle, and the handle holds the future, until the future ends.

mod api;

use std::sync::{Arc, Mutex, MutexGuard, PoisonError, TryLockResult};
use std::time::{Duration, Instant};

use pyo3::exceptions::{PyException, PyRuntimeError, PyValueError};
use pyo3::intern;
use pyo3::prelude::*;
use pyo3::types::PyList;

use crate::python::settle::{Handle, PySide, settle_here};
use crate::python::stdlib;

pub(super) use api::register;

use crate::supervisor::handle::{Entry, Taker};
use crate::sys::futex::Waited;

/// The native part of `deadpool.Future`.
#[pyclass(module = "deadpool._core", subclass, frozen, dict, weakref)]
#[derive(Default)]
pub struct FutureBase {
    inner: Mutex<Inner>,
}

#[derive(Default)]
pub(super) struct Inner {
    pub(super) state: State,
    /// Whether `value` is an exception to raise.
    pub(super) raised: bool,
    /// The worker that ran it, kept when the handle goes; 0 if none did.
    pub(super) pid: u32,
    pub(super) value: Option<Py<PyAny>>,
    /// A pool's future has one until it has a result; another one gets one when it is waited for.
    pub(super) handle: Option<Arc<Handle>>,
    pub(super) extras: Option<Box<Extras>>,
}

/// What most futures never have.
#[derive(Default)]
pub(super) struct Extras {
    pub(super) condition: Option<Py<PyAny>>,
    pub(super) waiters: Option<Py<PyList>>,
    pub(super) callbacks: Option<Py<PyList>>,
    pub(super) pid_callbacks: Option<Py<PyList>>,
    /// What the exception had when it was set: each `result()` starts from it.
    pub(super) traceback: Option<Py<PyAny>>,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) enum State {
    #[default]
    Pending,
    Running,
    Cancelled,
    CancelledAndNotified,
    Finished,
}

impl State {
    pub(super) const ALL: [Self; 5] =
        [Self::Pending, Self::Running, Self::Cancelled, Self::CancelledAndNotified, Self::Finished];

    pub(super) const fn name(self) -> &'static str {
        match self {
            Self::Pending => "PENDING",
            Self::Running => "RUNNING",
            Self::Cancelled => "CANCELLED",
            Self::CancelledAndNotified => "CANCELLED_AND_NOTIFIED",
            Self::Finished => "FINISHED",
        }
    }

    pub(super) const fn description(self) -> &'static str {
        match self {
            Self::Pending => "pending",
            Self::Running => "running",
            Self::Cancelled | Self::CancelledAndNotified => "cancelled",
            Self::Finished => "finished",
        }
    }

    pub(super) const fn is_cancelled(self) -> bool {
        matches!(self, Self::Cancelled | Self::CancelledAndNotified)
    }

    pub(super) const fn is_done(self) -> bool {
        matches!(self, Self::Cancelled | Self::CancelledAndNotified | Self::Finished)
    }
}

/// How a future ends.
pub enum End {
    /// With a result.
    Returned(Py<PyAny>),
    /// With an exception.
    Raised(Py<PyAny>),
    /// Cancelled; waiters are told.
    Cancelled,
    /// Cancelled; `set_running_or_notify_cancel` will tell the waiters.
    CancelledUnnotified,
}

impl End {
    /// The method of the standard library's waiters that tells of it.
    const fn notification(&self) -> Option<&'static str> {
        match self {
            Self::Returned(_) => Some("add_result"),
            Self::Raised(_) => Some("add_exception"),
            Self::Cancelled => Some("add_cancelled"),
            Self::CancelledUnnotified => None,
        }
    }
}

/// What is left to do when a future has ended; all of it may run Python code.
#[derive(Default)]
struct Aftermath {
    handle: Option<Arc<Handle>>,
    waiters: Option<Py<PyList>>,
    callbacks: Option<Py<PyList>>,
    pid_callbacks: Option<Py<PyList>>,
}

impl Inner {
    pub(super) fn extras(&mut self) -> &mut Extras {
        self.extras.get_or_insert_default()
    }

    pub(super) fn pid(&self) -> Option<u32> {
        let pid = self.handle.as_ref().and_then(|handle| handle.pid());
        pid.or(Some(self.pid).filter(|&pid| pid != 0))
    }

    /// The state as the standard library names it.
    pub(super) fn visible_state(&self) -> State {
        match self.state {
            State::Pending if self.pid().is_some() => State::Running,
            state => state,
        }
    }

    fn end(&mut self, py: Python<'_>, end: End, traceback: Option<Py<PyAny>>) -> Aftermath {
        self.pid = self.pid().unwrap_or(0);
        (self.state, self.value) = match end {
            End::Returned(value) => (State::Finished, Some(value)),
            End::Raised(value) => {
                self.raised = true;
                (State::Finished, Some(value))
            }
            End::Cancelled => (State::CancelledAndNotified, None),
            End::CancelledUnnotified => (State::Cancelled, None),
        };
        if traceback.is_some() {
            self.extras().traceback = traceback;
        }
        // A cancelled task may still run, and be killed by another call: that takes the handle.
        let handle = match self.state {
            State::Finished => self.handle.take(),
            _ => self.handle.clone(),
        };
        let Some(extras) = &mut self.extras else {
            return Aftermath { handle, ..Aftermath::default() };
        };
        Aftermath {
            handle,
            waiters: extras.waiters.as_ref().map(|waiters| waiters.clone_ref(py)),
            callbacks: extras.callbacks.take(),
            pid_callbacks: extras.pid_callbacks.take().filter(|_| self.pid != 0),
        }
    }
}

impl FutureBase {
    pub(super) fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// For the garbage collector, which must not wait.
    pub(super) fn try_lock(&self) -> TryLockResult<MutexGuard<'_, Inner>> {
        self.inner.try_lock()
    }

    /// The callbacks to call now that the task has started.
    pub(super) fn take_pid_callbacks(&self) -> Option<Py<PyList>> {
        self.lock().extras.as_mut()?.pid_callbacks.take()
    }

    /// Makes this a pool's future.
    pub(super) fn bind_handle(&self, handle: Arc<Handle>) {
        self.lock().handle = Some(handle);
    }

    fn handle_to_wait_on(&self) -> Arc<Handle> {
        let mut inner = self.lock();
        Arc::clone(inner.handle.get_or_insert_with(|| Arc::new(PySide::standalone())))
    }

    /// The handle, if the future hasn't ended.
    pub(super) fn pending_handle(&self) -> Option<Arc<Handle>> {
        let inner = self.lock();
        if inner.state.is_done() { None } else { inner.handle.clone() }
    }

    /// Whether the task has ended and the future has not: what is on its way stays as it is.
    pub(super) fn has_untold_outcome(&self) -> bool {
        self.pending_handle().is_some_and(|handle| handle.has_outcome())
    }

    /// Ends the future with an outcome that was offered to a thread that waits and is still on its
    /// way to the GIL, so that no question is answered as if the task were still running.
    pub(super) fn poll(slf: &Bound<'_, Self>) -> PyResult<()> {
        if let Some(handle) = slf.get().pending_handle()
            && let Some(outcome) = handle.take(Taker::Caller)
        {
            settle_here(slf.py(), &handle, outcome)?;
        }
        Ok(())
    }

    /// From now on the completer settles this future: there is more to do than waking a waiter.
    pub(super) fn prefer_completer(slf: &Bound<'_, Self>) -> PyResult<()> {
        if let Some(handle) = slf.get().pending_handle() {
            handle.prefer_completer();
        }
        Self::poll(slf)
    }

    /// **Blocks** until the future ends, with the GIL released. Says whether it did.
    pub(super) fn wait(slf: &Bound<'_, Self>, timeout: Option<f64>) -> PyResult<bool> {
        let (py, this) = (slf.py(), slf.get());
        if this.lock().state.is_done() {
            return Ok(true);
        }
        let deadline = deadline(timeout)?;
        let handle = this.handle_to_wait_on();
        if handle.side().link().is_some_and(|link| link.is_foreign()) {
            return Err(PyRuntimeError::new_err(
                "this future belongs to the process that made its pool, and never ends in a fork of it",
            ));
        }
        // A callback that waits for another future of its pool does so in the completer, which then
        // can't come to what is queued for it.
        let is_completer = handle.side().link().is_some_and(|link| link.is_completer());
        let by = if is_completer { Taker::Completer } else { Taker::Caller };
        loop {
            match handle.enter(by) {
                Entry::Settled => return Ok(true),
                Entry::Offered => {
                    if let Some(outcome) = handle.take(by) {
                        settle_here(py, &handle, outcome)?;
                    }
                    continue;
                }
                Entry::Waiting => {}
            }
            // A signal that came since the last bytecode would not interrupt the sleep.
            let mut signalled = py.check_signals();
            let waited = match signalled {
                Ok(()) => py.detach(|| handle.wait(by, deadline)),
                Err(_) => Waited::Interrupted,
            };
            // While a signal handler runs, this thread can't settle: it isn't waiting then.
            handle.leave();
            if let Some(outcome) = handle.take(by) {
                settle_here(py, &handle, outcome)?;
            }
            if waited == Waited::Interrupted && signalled.is_ok() {
                signalled = py.check_signals();
            }
            signalled?;
            if waited == Waited::TimedOut {
                return Ok(this.lock().state.is_done());
            }
        }
    }

    /// Ends the future and tells everybody, in the calling thread. `false` if it had ended before.
    ///
    /// An `Exception` from a callback is logged; another `BaseException` is returned, after the
    /// rest was called.
    pub(super) fn finish(slf: &Bound<'_, Self>, end: End) -> PyResult<bool> {
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
            handle.settle();
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

/// Seconds at Python's surface to an instant; `None` for a wait that never ends.
fn deadline(timeout_seconds: Option<f64>) -> PyResult<Option<Instant>> {
    let Some(seconds) = timeout_seconds else { return Ok(None) };
    if seconds.is_nan() {
        return Err(PyValueError::new_err("timeout is not a number"));
    }
    // Centuries are as good as for ever.
    let timeout = Duration::try_from_secs_f64(seconds.max(0.0)).ok();
    Ok(timeout.and_then(|timeout| Instant::now().checked_add(timeout)))
}
