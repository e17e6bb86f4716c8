//! What Python sees of `FutureBase`.
//!
//! The semantics are the standard library's, with three differences for a pool's future: a running
//! task can be cancelled, which gives up on its result; a cancelled future has told its waiters at
//! once; and there is a pid. Without a pool it behaves as `concurrent.futures.Future` does.

use pyo3::PyTraverseError;
use pyo3::exceptions::{PyRuntimeError, PyTypeError, PyValueError};
use pyo3::gc::PyVisit;
use pyo3::intern;
use pyo3::prelude::*;
use pyo3::types::{PyList, PyString};

use super::ending::call_back;
use super::object::{End, Extras, FutureBase, State};
use crate::python::stdlib;

/// Adds the class to the module.
pub fn register(module: &Bound<'_, PyModule>) -> PyResult<()> {
    module.add_class::<FutureBase>()
}

#[pymethods]
impl FutureBase {
    #[new]
    fn new() -> Self {
        Self::default()
    }

    /// Keeps the standard library's constructor from being called.
    #[allow(clippy::unused_self, reason = "an initializer is a method")]
    fn __init__(&self) {}

    /// Give up on the result. Return False if the task has ended.
    ///
    /// A running task goes on, and its result is thrown away, unless the pool was made with
    /// ``kill_on_cancel``. Does not block.
    fn cancel(slf: &Bound<'_, Self>) -> PyResult<bool> {
        Self::poll(slf)?;
        let (state, handle) = {
            let inner = slf.get().lock();
            (inner.state, inner.handle.clone())
        };
        if state.is_done() {
            return Ok(state.is_cancelled());
        }
        let link = handle.as_ref().and_then(|handle| handle.side().link());
        let Some((handle, link)) = handle.as_ref().zip(link) else {
            if state == State::Running {
                return Ok(false);
            }
            let cancelled = Self::finish(slf, End::CancelledUnnotified)?;
            return Ok(cancelled || slf.get().lock().state.is_cancelled());
        };
        if slf.get().has_untold_outcome() {
            return Ok(false);
        }
        if link.kill_on_cancel() {
            link.kill(handle.id(), libc::SIGKILL);
        } else {
            link.cancel(handle.id());
        }
        let cancelled = Self::finish(slf, End::Cancelled)?;
        Ok(cancelled || slf.get().lock().state.is_cancelled())
    }

    /// Give up on the result, and send ``sig`` to the task's process tree if it runs.
    ///
    /// A tree that outlives another signal than SIGKILL by the pool's ``kill_grace_period`` is killed.
    /// Hits this task and no other. Does not block.
    #[pyo3(signature = (sig = libc::SIGKILL))]
    fn cancel_and_kill_if_running(slf: &Bound<'_, Self>, sig: i32) -> PyResult<bool> {
        let last = libc::SIGRTMAX();
        if !(1..=last).contains(&sig) {
            return Err(PyValueError::new_err(format!(
                "sig must be a signal from 1 to {last}, not {sig}"
            )));
        }
        Self::poll(slf)?;
        let handle = {
            let inner = slf.get().lock();
            if inner.state == State::Finished { None } else { inner.handle.clone() }
        };
        if let Some(handle) = handle
            && let Some(link) = handle.side().link()
        {
            if slf.get().has_untold_outcome() {
                return Ok(false);
            }
            link.kill(handle.id(), sig);
            let cancelled = Self::finish(slf, End::Cancelled)?;
            return Ok(cancelled || slf.get().lock().state.is_cancelled());
        }
        Self::cancel(slf)
    }

    /// Return whether the task has ended, even if no callback was called for that yet.
    fn _has_outcome(slf: &Bound<'_, Self>) -> PyResult<bool> {
        Ok(Self::done(slf)? || slf.get().has_untold_outcome())
    }

    /// Whether the future was cancelled.
    fn cancelled(slf: &Bound<'_, Self>) -> PyResult<bool> {
        Self::poll(slf)?;
        Ok(slf.get().lock().state.is_cancelled())
    }

    /// Whether the task runs.
    fn running(slf: &Bound<'_, Self>) -> PyResult<bool> {
        Self::look_for_start(slf)?;
        Ok(slf.get().lock().visible_state() == State::Running)
    }

    /// Whether the future has finished or was cancelled.
    fn done(slf: &Bound<'_, Self>) -> PyResult<bool> {
        if slf.get().lock().state.is_done() {
            return Ok(true);
        }
        Self::poll(slf)?;
        Ok(slf.get().lock().state.is_done())
    }

    /// Return the task's result, or raise its exception. Blocks for at most ``timeout`` seconds.
    ///
    /// :raises concurrent.futures.TimeoutError: If the task has not ended by then.
    /// :raises CancelledError: If the future was cancelled.
    #[allow(clippy::doc_markdown, reason = "the docstring is Python's, in reStructuredText")]
    #[pyo3(signature = (timeout = None))]
    fn result(slf: &Bound<'_, Self>, timeout: Option<f64>) -> PyResult<Py<PyAny>> {
        let py = slf.py();
        let done = Self::wait(slf, timeout)?;
        let (value, traceback) = {
            let inner = slf.get().lock();
            if inner.state.is_cancelled() {
                drop(inner);
                return Err(stdlib::cancelled_error(py));
            }
            let value = inner.value.as_ref().map(|value| value.clone_ref(py));
            if !inner.raised && inner.state == State::Finished {
                return Ok(value.unwrap_or_else(|| py.None()));
            }
            let traceback = inner.extras.as_ref().and_then(|extras| extras.traceback.as_ref());
            (value, traceback.map(|traceback| traceback.clone_ref(py)))
        };
        match value {
            Some(exception) if done => Err(stdlib::to_raise(exception.bind(py), traceback)),
            _ => Err(stdlib::timeout_error(py)),
        }
    }

    /// Return the task's exception, or None. Blocks for at most `timeout` seconds.
    #[pyo3(signature = (timeout = None))]
    fn exception(slf: &Bound<'_, Self>, timeout: Option<f64>) -> PyResult<Option<Py<PyAny>>> {
        let py = slf.py();
        let done = Self::wait(slf, timeout)?;
        let inner = slf.get().lock();
        let state = inner.state;
        let exception =
            inner.value.as_ref().filter(|_| inner.raised).map(|value| value.clone_ref(py));
        drop(inner);
        match state {
            _ if state.is_cancelled() => Err(stdlib::cancelled_error(py)),
            State::Finished if done => Ok(exception),
            _ => Err(stdlib::timeout_error(py)),
        }
    }

    /// Call ``fn(future)`` when the future ends, or now if it has.
    ///
    /// Called in the pool's completer thread, where it delays other callbacks and nothing else; in
    /// the calling thread if the future has ended, or is cancelled by it.
    fn add_done_callback(slf: &Bound<'_, Self>, r#fn: &Bound<'_, PyAny>) -> PyResult<()> {
        Self::prefer_completer(slf)?;
        let callbacks = Self::list(slf, |extras| &mut extras.callbacks);
        {
            // Appending to a list runs no Python code, and must not come after the end.
            let inner = slf.get().lock();
            if !inner.state.is_done() {
                return callbacks.append(r#fn);
            }
        }
        call_back(slf, r#fn, stdlib::FUTURES_LOGGER)
    }

    /// Call ``fn(future)`` when the task starts, or now if it has; its ``pid`` is known then.
    ///
    /// Once: where a task is run again after its worker died, ``pid`` changes and nothing is called.
    fn add_pid_callback(slf: &Bound<'_, Self>, r#fn: &Bound<'_, PyAny>) -> PyResult<()> {
        if !r#fn.is_callable() {
            let class = r#fn.get_type();
            return Err(PyTypeError::new_err(format!("fn must be a callable, not {class}")));
        }
        Self::prefer_completer(slf)?;
        let callbacks = Self::list(slf, |extras| &mut extras.pid_callbacks);
        {
            let inner = slf.get().lock();
            if inner.pid().is_none() {
                if inner.state.is_done() {
                    return Ok(());
                }
                callbacks.append(r#fn)?;
                drop(inner);
                // Whether it began a moment ago or will begin later: the pool tells of it now.
                return Self::look_for_start(slf);
            }
        }
        call_back(slf, r#fn, stdlib::DEADPOOL_LOGGER)
    }

    /// Call ``fn(future)`` when the task's soft timeout has passed, or now if it has.
    ///
    /// Called when :class:`SoftTimeoutError` is about to be raised in the task, by the thread that
    /// calls done-callbacks. What it raises is logged.
    fn add_soft_timeout_callback(slf: &Bound<'_, Self>, r#fn: &Bound<'_, PyAny>) -> PyResult<()> {
        if !r#fn.is_callable() {
            let class = r#fn.get_type();
            return Err(PyTypeError::new_err(format!("fn must be a callable, not {class}")));
        }
        let callbacks = Self::list(slf, |extras| &mut extras.soft_timeout_callbacks);
        {
            let mut inner = slf.get().lock();
            if !inner.extras().soft_timeout_passed {
                return callbacks.append(r#fn);
            }
        }
        call_back(slf, r#fn, stdlib::DEADPOOL_LOGGER)
    }

    /// The process that runs or ran the task; None if none did yet.
    #[getter]
    fn pid(slf: &Bound<'_, Self>) -> PyResult<Option<u32>> {
        Self::look_for_start(slf)?;
        Ok(slf.get().lock().pid())
    }

    /// Mark the future as running, or tell the waiters that it was cancelled.
    fn set_running_or_notify_cancel(slf: &Bound<'_, Self>) -> PyResult<bool> {
        Self::poll(slf)?;
        let state = {
            let mut inner = slf.get().lock();
            let before = inner.state;
            inner.state = match before {
                State::Pending => State::Running,
                State::Cancelled => State::CancelledAndNotified,
                other => other,
            };
            before
        };
        match state {
            State::Pending => Ok(true),
            State::Cancelled => Self::notify_cancelled(slf).map(|()| false),
            // A pool's future has told its waiters already.
            State::CancelledAndNotified if slf.get().lock().handle.is_some() => Ok(false),
            _ => {
                stdlib::log_unexpected_state(slf, state.name());
                Err(PyRuntimeError::new_err("Future in unexpected state"))
            }
        }
    }

    /// End the future with a result.
    fn set_result(slf: &Bound<'_, Self>, result: Py<PyAny>) -> PyResult<()> {
        Self::poll(slf)?;
        if Self::finish(slf, End::Returned(result))? {
            return Ok(());
        }
        Err(Self::invalid_state(slf))
    }

    /// End the future with an exception.
    fn set_exception(slf: &Bound<'_, Self>, exception: &Bound<'_, PyAny>) -> PyResult<()> {
        Self::poll(slf)?;
        let end = if exception.is_none() {
            End::Returned(exception.clone().unbind())
        } else {
            End::Raised(exception.clone().unbind())
        };
        if Self::finish(slf, end)? { Ok(()) } else { Err(Self::invalid_state(slf)) }
    }

    fn __repr__(slf: &Bound<'_, Self>) -> PyResult<String> {
        Self::poll(slf)?;
        let py = slf.py();
        let (state, raised, value) = {
            let inner = slf.get().lock();
            let value = inner.value.as_ref().map(|value| value.clone_ref(py));
            (inner.visible_state(), inner.raised, value)
        };
        let name = slf.get_type().name()?;
        let start = format!("<{name} at {:p} state={}", slf.as_ptr(), state.description());
        if state != State::Finished {
            return Ok(format!("{start}>"));
        }
        let verb = if raised { "raised" } else { "returned" };
        let value = value.unwrap_or_else(|| py.None());
        Ok(format!("{start} {verb} {}>", value.bind(py).get_type().name()?))
    }

    #[getter(_condition)]
    fn condition(slf: &Bound<'_, Self>) -> PyResult<Py<PyAny>> {
        Self::prefer_completer(slf)?;
        let py = slf.py();
        let made = slf.get().lock().extras().condition.as_ref().map(|made| made.clone_ref(py));
        if let Some(made) = made {
            return Ok(made);
        }
        let fresh = stdlib::new_condition(py)?;
        let mut inner = slf.get().lock();
        let condition = inner.extras().condition.get_or_insert_with(|| fresh.clone_ref(py));
        Ok(condition.clone_ref(py))
    }

    #[getter(_state)]
    fn state_name<'py>(slf: &Bound<'py, Self>) -> PyResult<Bound<'py, PyString>> {
        Self::poll(slf)?;
        let state = slf.get().lock().visible_state();
        Ok(PyString::intern(slf.py(), state.name()))
    }

    #[setter(_state)]
    fn set_state_name(slf: &Bound<'_, Self>, name: &str) -> PyResult<()> {
        let state = State::ALL.into_iter().find(|state| state.name() == name);
        let state = state.ok_or_else(|| PyValueError::new_err("not the name of a state"))?;
        let handle = {
            let mut inner = slf.get().lock();
            inner.state = state;
            inner.handle.clone().filter(|_| state.is_done())
        };
        if let Some(handle) = handle {
            handle.mark_settled();
        }
        Ok(())
    }

    #[getter(_result)]
    fn stored_result(slf: &Bound<'_, Self>) -> PyResult<Option<Py<PyAny>>> {
        Self::poll(slf)?;
        let inner = slf.get().lock();
        Ok(inner.value.as_ref().filter(|_| !inner.raised).map(|value| value.clone_ref(slf.py())))
    }

    #[setter(_result)]
    fn set_stored_result(&self, value: Option<Py<PyAny>>) {
        self.store(value, false);
    }

    #[getter(_exception)]
    fn stored_exception(slf: &Bound<'_, Self>) -> PyResult<Option<Py<PyAny>>> {
        Self::poll(slf)?;
        let inner = slf.get().lock();
        Ok(inner.value.as_ref().filter(|_| inner.raised).map(|value| value.clone_ref(slf.py())))
    }

    #[setter(_exception)]
    fn set_stored_exception(&self, value: Option<Py<PyAny>>) {
        self.store(value, true);
    }

    #[getter(_waiters)]
    fn waiters<'py>(slf: &Bound<'py, Self>) -> PyResult<Bound<'py, PyList>> {
        Self::prefer_completer(slf)?;
        Ok(Self::list(slf, |extras| &mut extras.waiters))
    }

    #[getter(_done_callbacks)]
    fn done_callbacks<'py>(slf: &Bound<'py, Self>) -> PyResult<Bound<'py, PyList>> {
        Self::prefer_completer(slf)?;
        Ok(Self::list(slf, |extras| &mut extras.callbacks))
    }

    fn __traverse__(&self, visit: PyVisit<'_>) -> Result<(), PyTraverseError> {
        // Never locked while the garbage collector runs; if it were, nothing would be lost.
        let Ok(inner) = self.try_lock() else { return Ok(()) };
        visit.call(&inner.value)?;
        let Some(extras) = &inner.extras else { return Ok(()) };
        visit.call(&extras.condition)?;
        visit.call(&extras.waiters)?;
        visit.call(&extras.callbacks)?;
        visit.call(&extras.pid_callbacks)?;
        visit.call(&extras.soft_timeout_callbacks)?;
        visit.call(&extras.traceback)
    }

    fn __clear__(&self) {
        let mut inner = self.lock();
        let removed = (inner.value.take(), inner.extras.take());
        drop(inner);
        drop(removed);
    }
}

impl FutureBase {
    /// Asks the pool to tell when the task starts, once.
    fn look_for_start(slf: &Bound<'_, Self>) -> PyResult<()> {
        Self::poll(slf)?;
        if let Some(handle) = slf.get().pending_handle()
            && handle.pid().is_none()
            && let Some(link) = handle.side().link_to_ask_for_start()
        {
            slf.py().detach(|| link.report_start(handle.id()));
        }
        Ok(())
    }

    /// One of the lists that are made when somebody asks.
    fn list<'py>(
        slf: &Bound<'py, Self>,
        field: fn(&mut Extras) -> &mut Option<Py<PyList>>,
    ) -> Bound<'py, PyList> {
        let py = slf.py();
        if let Some(made) = field(slf.get().lock().extras()) {
            return made.clone_ref(py).into_bound(py);
        }
        // Made before the lock is taken: an allocation can run the garbage collector.
        let fresh = PyList::empty(py).unbind();
        let mut inner = slf.get().lock();
        let list = field(inner.extras()).get_or_insert_with(|| fresh.clone_ref(py));
        list.clone_ref(py).into_bound(py)
    }

    fn store(&self, value: Option<Py<PyAny>>, raised: bool) {
        let mut inner = self.lock();
        if value.is_none() && inner.raised != raised {
            return;
        }
        inner.raised = raised && value.is_some();
        let replaced = std::mem::replace(&mut inner.value, value);
        drop(inner);
        drop(replaced);
    }

    fn invalid_state(slf: &Bound<'_, Self>) -> PyErr {
        let state = slf.get().lock().state.name();
        let shown = slf.repr().map_or_else(|_| String::new(), |shown| shown.to_string());
        stdlib::invalid_state_error(slf.py(), &format!("{state}: {shown}"))
    }

    /// The second half of a cancellation, for futures without a pool.
    fn notify_cancelled(slf: &Bound<'_, Self>) -> PyResult<()> {
        let waiters = Self::list(slf, |extras| &mut extras.waiters);
        let condition = Self::condition(slf)?.into_bound(slf.py());
        condition.call_method0(intern!(slf.py(), "acquire"))?;
        let mut told = Ok(());
        for waiter in waiters {
            told = told.and(waiter.call_method1("add_cancelled", (slf,)).map(drop));
        }
        condition.call_method0(intern!(slf.py(), "release"))?;
        told
    }
}
