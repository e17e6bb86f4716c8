//! Waiting for a future's end, and settling it in the thread that waits.

use std::sync::Arc;
use std::time::{Duration, Instant};

use pyo3::exceptions::{PyRuntimeError, PyValueError};
use pyo3::prelude::*;

use crate::supervisor::handle::{Entry, Taker};
use crate::sys::futex::Waited;

use super::ending::{is_reading, settle_here};
use super::link::{Handle, PySide};
use super::object::FutureBase;

impl FutureBase {
    fn handle_to_wait_on(&self) -> Arc<Handle> {
        let mut inner = self.lock();
        Arc::clone(inner.handle.get_or_insert_with(|| Arc::new(PySide::standalone())))
    }

    /// Ends the future with an outcome that was offered to a thread that waits and is still on its
    /// way to the GIL, so that no question is answered as if the task were still running.
    pub(super) fn poll(slf: &Bound<'_, Self>) -> PyResult<()> {
        if let Some(handle) = slf.get().pending_handle()
            && let Some(outcome) = handle.take(Taker::Caller)
        {
            settle_here(slf, &handle, outcome)?;
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
        if is_reading(&handle) {
            return Err(PyRuntimeError::new_err(
                "this thread is unpickling the result of this very future, and would wait for itself: \
                 a signal handler or a finalizer interrupted that, or the result asks for itself",
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
                        settle_here(slf, &handle, outcome)?;
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
                settle_here(slf, &handle, outcome)?;
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
