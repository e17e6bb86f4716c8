//! Between the pool and the futures: making them, ending them, and what they ask of the pool.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use pyo3::exceptions::{PyException, PyTypeError};
use pyo3::prelude::*;
use pyo3::types::{PyTuple, PyType};

use super::exception_frame::decode;
use super::future::{FutureBase, call_all};
use super::pickling::Serializer;
use super::stdlib;
use crate::ids::TaskId;
use crate::supervisor::Outcome;
use crate::supervisor::handle::TaskHandle;

/// A task as the future and the supervisor see it.
pub type Handle = TaskHandle<PySide>;

/// What a future asks of its pool. No call may block or run Python code, but where it is said: they
/// come from callers' threads that hold the GIL. All may be about a task that has ended, which means
/// nothing.
pub trait PoolLink: Send + Sync {
    /// The caller has given up on the task: don't start it; if it runs, throw its result away.
    fn cancel(&self, task: TaskId);
    /// As `cancel`; and if the task runs, send the signal to its process tree. One request, so that
    /// a task which begins in between is stopped all the same. May come after a `cancel`.
    fn kill(&self, task: TaskId, signal: i32);
    /// Tell when the task starts (see [`started`]). The process of one that has started already is known
    /// when this returns. May wait for a moment, and for no other thread that takes the GIL.
    fn report_start(&self, task: TaskId);
    /// Count a task as failed whose result can't be unpickled here.
    fn count_unreadable(&self);
    /// Whether this is a fork of the process that made the pool, where nothing will ever end.
    fn is_foreign(&self) -> bool;
    /// Whether the calling thread is the one that settles this pool's futures.
    fn is_completer(&self) -> bool;
    /// Whether cancelling a running task kills it.
    fn kill_on_cancel(&self) -> bool;
    /// What pickles this pool's calls and results.
    fn serializer(&self) -> &Serializer;
}

/// The future's side of a handle.
pub struct PySide {
    link: Option<Arc<dyn PoolLink>>,
    asked_for_start: AtomicBool,
    held: Mutex<Held>,
}

/// What is kept alive until the future ends.
#[derive(Default)]
pub(super) struct Held {
    future: Option<Py<FutureBase>>,
    callable: Option<Py<PyAny>>,
}

impl PySide {
    /// A handle of a future that no pool made: something to sleep on.
    pub(super) fn standalone() -> Handle {
        let side =
            Self { link: None, asked_for_start: AtomicBool::new(true), held: Mutex::default() };
        TaskHandle::new(TaskId::next(), side)
    }

    pub(super) fn link(&self) -> Option<&Arc<dyn PoolLink>> {
        self.link.as_ref()
    }

    /// The pool, the first time this is called.
    pub(super) fn link_to_ask_for_start(&self) -> Option<&Arc<dyn PoolLink>> {
        let asked = self.asked_for_start.swap(true, Ordering::AcqRel);
        self.link.as_ref().filter(|_| !asked)
    }

    /// Lets go of the future and the callable.
    pub(super) fn release(&self) -> Held {
        std::mem::take(&mut *self.held.lock().unwrap_or_else(PoisonError::into_inner))
    }

    pub(super) fn future(&self, py: Python<'_>) -> Option<Py<FutureBase>> {
        let held = self.held.lock().unwrap_or_else(PoisonError::into_inner);
        held.future.as_ref().map(|future| future.clone_ref(py))
    }

    fn callable(&self, py: Python<'_>) -> Option<Py<PyAny>> {
        let held = self.held.lock().unwrap_or_else(PoisonError::into_inner);
        held.callable.as_ref().map(|callable| callable.clone_ref(py))
    }
}

/// A pool's new future, of the class `cls`, and its handle. `callable` is what is named in messages;
/// `is_watched` says that the pool tells of its start without being asked.
pub fn new_task(
    py: Python<'_>,
    cls: &Bound<'_, PyType>,
    link: Arc<dyn PoolLink>,
    callable: &Bound<'_, PyAny>,
    is_watched: bool,
) -> PyResult<(Py<FutureBase>, Arc<Handle>)> {
    let future = new_future(cls)?;
    let held =
        Held { future: Some(future.clone_ref(py)), callable: Some(callable.clone().unbind()) };
    let side = PySide {
        link: Some(link),
        asked_for_start: AtomicBool::new(is_watched),
        held: Mutex::new(held),
    };
    let handle = Arc::new(TaskHandle::new(TaskId::next(), side));
    future.get().bind_handle(Arc::clone(&handle));
    Ok((future, handle))
}

/// `cls.__new__(cls)`: calling the class costs a third more, for a constructor that does nothing.
fn new_future(cls: &Bound<'_, PyType>) -> PyResult<Py<FutureBase>> {
    let py = cls.py();
    let class = cls.as_type_ptr();
    // SAFETY: a class object whose `tp_new`, which every class with instances has, is called as
    // `type.__call__` would; it returns a new reference or null with an error set.
    let object = unsafe {
        let Some(new) = (*class).tp_new else {
            return Err(PyTypeError::new_err("the class of a future must have instances"));
        };
        let nothing = PyTuple::empty(py);
        Bound::from_owned_ptr_or_err(py, new(class, nothing.as_ptr(), std::ptr::null_mut()))?
    };
    Ok(object.cast_into::<FutureBase>()?.unbind())
}

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
    pub(super) fn is_to_raise(self, py: Python<'_>, error: &PyErr) -> bool {
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
    settle_here(py, handle, outcome)
        .or_else(|error| interrupts.deal_with(future.bind(py), stdlib::FUTURES_LOGGER, error))
}

/// As [`settle`], for a thread that waits: whatever is not dealt with inside gets out.
pub(super) fn settle_here(py: Python<'_>, handle: &Handle, outcome: Outcome) -> PyResult<()> {
    let Some(future) = handle.side().future(py) else { return Ok(()) };
    let (end, interrupt) = decode(py, handle, outcome);
    let finished = FutureBase::finish(future.bind(py), end);
    interrupt.map_or(Ok(()), Err)?;
    finished.map(drop)
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
    let future = future.bind(py);
    future
        .call_method0("_soft_timed_out")
        .map(drop)
        .or_else(|error| interrupts.deal_with(future, stdlib::DEADPOOL_LOGGER, error))
}

/// What the task's function is called: module and qualified name.
pub fn task_name(py: Python<'_>, handle: &Handle) -> String {
    handle
        .side()
        .callable(py)
        .map_or_else(|| String::from("a task"), |callable| callable_name(callable.bind(py)))
}

/// Module and qualified name, of what a `functools.partial` or a bound method wraps.
pub fn callable_name(callable: &Bound<'_, PyAny>) -> String {
    let mut callable = callable.clone();
    // Partials of partials are flattened by Python, other wrappers may nest; not without end.
    for _ in 0..8 {
        if !callable.get_type().name().is_ok_and(|name| name == "partial") {
            break;
        }
        let Ok(inner) = callable.getattr("func") else { break };
        callable = inner;
    }
    let text =
        |object: &Bound<'_, PyAny>, name: &str| object.getattr(name).ok()?.extract::<String>().ok();
    let named = text(&callable, "__qualname__").map(|name| (text(&callable, "__module__"), name));
    let (module, name) = named.unwrap_or_else(|| {
        let class = callable.get_type();
        let name = text(&class, "__qualname__").unwrap_or_else(|| String::from("object"));
        (text(&class, "__module__"), name)
    });
    match module {
        Some(module) if module != "builtins" => format!("{module}.{name}"),
        _ => name,
    }
}
