//! The link between a pool and its futures, and what a task's handle keeps for its future.

use std::ptr;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use pyo3::exceptions::PyTypeError;
use pyo3::prelude::*;
use pyo3::types::{PyTuple, PyType};

use crate::ids::TaskId;
use crate::python::pickling::Serializer;
use crate::supervisor::handle::TaskHandle;
use crate::supervisor::{Command, Shared};
use crate::sys::fork_guard;

use super::object::FutureBase;

/// A task as the future and the supervisor see it.
pub type Handle = TaskHandle<PySide>;

/// The future's side of a handle.
pub struct PySide {
    link: Option<Arc<Link>>,
    asked_for_start: AtomicBool,
    held: Mutex<Held>,
}

/// What is kept alive until the future ends.
#[derive(Default)]
pub(in crate::python) struct Held {
    future: Option<Py<FutureBase>>,
    callable: Option<Py<PyAny>>,
}

impl PySide {
    /// A handle of a future that no pool made: something to sleep on.
    pub(in crate::python) fn standalone() -> Handle {
        let side =
            Self { link: None, asked_for_start: AtomicBool::new(true), held: Mutex::default() };
        TaskHandle::new(TaskId::next(), side)
    }

    pub(in crate::python) fn link(&self) -> Option<&Arc<Link>> {
        self.link.as_ref()
    }

    /// The pool, the first time this is called.
    pub(in crate::python) fn link_to_ask_for_start(&self) -> Option<&Arc<Link>> {
        let asked = self.asked_for_start.swap(true, Ordering::AcqRel);
        self.link.as_ref().filter(|_| !asked)
    }

    /// Lets go of the future and the callable.
    pub(in crate::python) fn release(&self) -> Held {
        std::mem::take(&mut *self.held.lock().unwrap_or_else(PoisonError::into_inner))
    }

    pub(in crate::python) fn future(&self, py: Python<'_>) -> Option<Py<FutureBase>> {
        let held = self.held.lock().unwrap_or_else(PoisonError::into_inner);
        held.future.as_ref().map(|future| future.clone_ref(py))
    }

    pub(super) fn callable(&self, py: Python<'_>) -> Option<Py<PyAny>> {
        let held = self.held.lock().unwrap_or_else(PoisonError::into_inner);
        held.callable.as_ref().map(|callable| callable.clone_ref(py))
    }
}

/// A pool's new future, of the class `cls`, and its handle. `callable` is what is named in messages;
/// `is_watched` says that the pool tells of its start without being asked.
pub fn new_task(
    py: Python<'_>,
    cls: &Bound<'_, PyType>,
    link: Arc<Link>,
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

/// What a pool is, for its object and for its futures.
///
/// What a future asks of its pool. No call may block or run Python code, but where it is said: they
/// come from callers' threads that hold the GIL. All may be about a task that has ended, which means
/// nothing.
pub(in crate::python) struct Link {
    pub shared: Arc<Shared<PySide>>,
    pub(in crate::python) serializer: Serializer,
    pub(in crate::python) kill_on_cancel: bool,
    pub(in crate::python) completer: Arc<CompleterThread>,
    // Of the process that made it; a fork of that has no supervisor.
    pub(in crate::python) generation: u32,
}

impl Link {
    pub(in crate::python) fn post(&self, command: Command<PySide>) {
        if !self.is_foreign() {
            self.shared.post(command);
        }
    }

    /// The caller has given up on the task: don't start it; if it runs, throw its result away.
    pub fn cancel(&self, task: TaskId) {
        self.post(Command::Cancel(task, None));
    }

    /// As `cancel`; and if the task runs, send the signal to its process tree. One request, so that
    /// a task which begins in between is stopped all the same. May come after a `cancel`.
    pub fn kill(&self, task: TaskId, signal: i32) {
        self.post(Command::Cancel(task, Some(signal)));
    }

    /// Tell when the task starts (see [`started`]). The process of one that has started already is known
    /// when this returns. May wait for a moment, and for no other thread that takes the GIL.
    pub fn report_start(&self, task: TaskId) {
        if !self.is_foreign() {
            self.shared.post_and_process(Command::WatchStart(task));
        }
    }

    /// Count a task as failed whose result can't be unpickled here.
    pub fn count_unreadable(&self) {
        if !self.is_foreign() {
            self.shared.count_unreadable();
        }
    }

    /// Whether this is a fork of the process that made the pool, where nothing will ever end.
    pub fn is_foreign(&self) -> bool {
        self.generation != fork_guard::generation()
    }

    /// Whether cancelling a running task kills it.
    pub fn kill_on_cancel(&self) -> bool {
        self.kill_on_cancel
    }

    /// Whether the calling thread is the one that settles this pool's futures.
    pub fn is_completer(&self) -> bool {
        self.completer.is_current()
    }

    /// What pickles this pool's calls and results.
    pub fn serializer(&self) -> &Serializer {
        &self.serializer
    }
}

/// Which thread settles the futures of a pool, for those who may be called back in it.
#[derive(Default)]
pub(in crate::python) struct CompleterThread(AtomicUsize);

impl CompleterThread {
    pub(in crate::python) fn is_current(&self) -> bool {
        self.0.load(Ordering::Relaxed) == Self::this_thread()
    }

    pub(in crate::python) fn become_current(&self) {
        self.0.store(Self::this_thread(), Ordering::Relaxed);
    }

    /// An address that no two living threads share, and never 0.
    fn this_thread() -> usize {
        thread_local!(static MARK: u8 = const { 0 });
        MARK.with(|mark| ptr::from_ref(mark).addr())
    }
}
