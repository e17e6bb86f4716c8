//! The native base of `deadpool.Deadpool`: `submit`, and what else must be fast or near the core.
//!
//! `class Deadpool(PoolBase, Executor)`: the constructor in Python checks its arguments and calls
//! `_open`; `submit` is inherited from here. Dropping the last reference to the object lets the pool
//! finish what was submitted and end.

use std::os::fd::{BorrowedFd, RawFd};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use pyo3::exceptions::{PyException, PyRuntimeError, PyTypeError};
use pyo3::prelude::*;
use pyo3::types::{PyDict, PyTuple, PyType};

use crate::policy::config::PoolConfig;
use crate::policy::event::Shutdown;
use crate::policy::statistics::Statistics;
use crate::supervisor::gate::Entrance;
use crate::supervisor::{self, Command, Settings, Shared, Submission};
use crate::sys::futex::Waited;
use crate::sys::waker::Waker;
use crate::sys::{fork_guard, signals};
use crate::task::TaskSpec;

use super::arguments::{TaskArguments, refuse_unknown, seconds};
use super::completer::Completer;
use super::environ::EnvironSender;
use super::future::{self, CompleterThread, End, FutureBase, Interrupts, Link, PySide};
use super::launcher::Launcher;
use super::pickling::Serializer;
use super::room_bell::RoomBell;

/// Adds the classes and functions to the module.
pub(super) fn register(module: &Bound<'_, PyModule>) -> PyResult<()> {
    module.add_class::<PoolBase>()?;
    module.add_class::<ShutdownMode>()
}

/// How a pool is ended.
#[pyclass(
    module = "deadpool._core",
    frozen,
    eq,
    rename_all = "SCREAMING_SNAKE_CASE",
    from_py_object
)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ShutdownMode {
    Drain,
    CancelWaiting,
    Terminate,
    CancelAll,
    Kill,
}

impl From<ShutdownMode> for Shutdown {
    fn from(mode: ShutdownMode) -> Self {
        match mode {
            ShutdownMode::Drain => Self::Drain,
            ShutdownMode::CancelWaiting => Self::CancelWaiting,
            ShutdownMode::Terminate => Self::Terminate,
            ShutdownMode::CancelAll => Self::CancelAll,
            ShutdownMode::Kill => Self::Kill,
        }
    }
}

/// The native base of :class:`deadpool.Deadpool`.
#[pyclass(module = "deadpool._core", subclass, frozen, dict, weakref)]
pub struct PoolBase {
    open: OnceLock<Open>,
}

struct Open {
    link: Arc<Link>,
    future_class: Py<PyType>,
    // Sends changes of the environment, which is done before each task. It knows no pool.
    propagate: Option<Py<PyAny>>,
    // Each task's start is to be told.
    watches_starts: bool,
    // Tasks wait for `_hand_over`.
    holds_back: bool,
}

impl Drop for PoolBase {
    fn drop(&mut self) {
        if let Some(open) = self.open.get()
            && !open.link.is_foreign()
        {
            open.link.shared.gate().close();
            let (done, _) = crossbeam_channel::bounded(0);
            open.link.post(Command::Shutdown(Shutdown::Drain, done));
        }
    }
}

impl PoolBase {
    fn open(&self) -> PyResult<&Open> {
        let open = self
            .open
            .get()
            .ok_or_else(|| PyRuntimeError::new_err("Deadpool.__init__() was not called"))?;
        if open.link.is_foreign() {
            return Err(PyRuntimeError::new_err(
                "this pool belongs to the process that made it, and can't be used in a fork of that process; \
                 make another pool here",
            ));
        }
        Ok(open)
    }

    fn shared(&self) -> PyResult<&Arc<Shared<PySide>>> {
        self.open().map(|open| &open.link.shared)
    }

    /// Take a place in the backlog. **Blocks** with the GIL released until there is one, if wanted.
    fn enter(&self, py: Python<'_>, block: bool) -> PyResult<()> {
        let gate = self.shared()?.gate();
        loop {
            match gate.try_enter() {
                Entrance::Open => return Ok(()),
                Entrance::Closed => return Err(self.closed(py)),
                Entrance::Full if !block => {
                    return Err(exception(py, "BacklogFull", "the backlog of the pool is full"));
                }
                Entrance::Full => {
                    if py.detach(|| gate.wait(None)) == Waited::Interrupted {
                        // The room that this thread may have been woken for is another's then.
                        py.check_signals().inspect_err(|_| gate.notify())?;
                    }
                }
            }
        }
    }

    fn closed(&self, py: Python<'_>) -> PyErr {
        if let Some(reason) = self.open.get().and_then(|open| open.link.shared.failure()) {
            return exception(
                py,
                "PoolClosed",
                &format!("cannot schedule new futures: the supervisor failed: {reason}"),
            );
        }
        let finalizing = py
            .import("deadpool._exit")
            .and_then(|exit| exit.getattr("interpreter_is_exiting")?.extract::<bool>())
            .unwrap_or(true);
        if finalizing {
            // Exactly this class, as CPython's tests of executors want it.
            return PyRuntimeError::new_err(
                "cannot schedule new futures after interpreter shutdown",
            );
        }
        exception(
            py,
            "PoolClosed",
            "cannot schedule new futures after shutdown: the pool is closed",
        )
    }
}

/// An exception of `deadpool`.
fn exception(py: Python<'_>, name: &str, message: &str) -> PyErr {
    let made = py
        .import("deadpool._exceptions")
        .and_then(|module| module.getattr(name)?.call1((message,)));
    made.map_or_else(|error| error, PyErr::from_value)
}

#[pymethods]
impl PoolBase {
    #[new]
    #[pyo3(signature = (*_args, **_kwargs))]
    fn new(_args: &Bound<'_, PyTuple>, _kwargs: Option<&Bound<'_, PyDict>>) -> Self {
        Self { open: OnceLock::new() }
    }

    /// Start the supervisor; returns what the completer and the launcher run.
    #[pyo3(signature = (
        *, future_class, max_workers, min_workers, max_tasks_per_child, max_backlog, zygote_each, starts_at_once, serializer,
        kill_on_cancel, kill_grace_period, worker_idle_timeout, worker_start_timeout, fail_on_initializer_error,
        propagate, bell, watches_starts, holds_back
    ))]
    #[allow(
        clippy::too_many_arguments,
        clippy::fn_params_excessive_bools,
        reason = "keywords, called from one place"
    )]
    fn _open(
        &self,
        py: Python<'_>,
        future_class: Py<PyType>,
        max_workers: usize,
        min_workers: usize,
        max_tasks_per_child: Option<u64>,
        max_backlog: Option<usize>,
        zygote_each: bool,
        starts_at_once: usize,
        serializer: &Bound<'_, PyAny>,
        kill_on_cancel: bool,
        kill_grace_period: &Bound<'_, PyAny>,
        worker_idle_timeout: &Bound<'_, PyAny>,
        worker_start_timeout: &Bound<'_, PyAny>,
        fail_on_initializer_error: bool,
        propagate: Option<Py<PyAny>>,
        bell: Option<RawFd>,
        watches_starts: bool,
        holds_back: bool,
    ) -> PyResult<(Py<Completer>, Py<Launcher>, Py<EnvironSender>)> {
        let forever = Duration::MAX;
        let duration = |name, value| Ok::<_, PyErr>(seconds(name, Some(value))?.unwrap_or(forever));
        super::logging::install_logger(py)?;
        let pool = PoolConfig {
            max_workers,
            starts_at_once,
            min_workers,
            max_tasks_per_child,
            idle_timeout: duration("worker_idle_timeout", worker_idle_timeout)?,
            kill_grace_period: duration("kill_grace_period", kill_grace_period)?,
            start_timeout: duration("worker_start_timeout", worker_start_timeout)?,
            fail_on_initializer_error,
            ..PoolConfig::default()
        };
        let serializer = Serializer::new(serializer)?;
        let settings = Settings {
            pool,
            max_backlog: max_backlog.unwrap_or(usize::MAX),
            zygote_each,
            propagates: propagate.is_some(),
        };
        // The caller may close its own when it likes.
        // SAFETY: a descriptor of the caller, who keeps it open until this returns.
        let bell = bell.map(|fd| unsafe { BorrowedFd::borrow_raw(fd) });
        let bell = bell.map(|fd| fd.try_clone_to_owned()).transpose()?;
        let bell = bell.map(Waker::from_owned).transpose()?;
        let (shared, completions, launches) = Shared::new(settings, bell)?;
        let supervised = Arc::clone(&shared);
        let thread =
            signals::spawn_blocked("deadpool-super", move || supervisor::run(&supervised))?;
        let completer_thread = Arc::<CompleterThread>::default();
        let stock = Arc::clone(serializer.stock());
        let link = Arc::new(Link {
            shared: Arc::clone(&shared),
            serializer,
            kill_on_cancel,
            completer: Arc::clone(&completer_thread),
            generation: fork_guard::generation(),
        });
        let open = Open { link, future_class, propagate, watches_starts, holds_back };
        if self.open.set(open).is_err() {
            return Err(PyRuntimeError::new_err("Deadpool.__init__() was called twice"));
        }
        let completer = Completer::new(completions, thread, completer_thread, stock);
        let environ = EnvironSender::new(Arc::clone(&shared));
        let starter = Launcher::new(launches, shared);
        Ok((Py::new(py, completer)?, Py::new(py, starter)?, Py::new(py, environ)?))
    }

    /// Schedule ``fn(*args, **kwargs)`` to run in a worker, and return its :class:`Future`.
    ///
    /// The call is pickled here, so later changes of its arguments are not seen; an error in pickling
    /// arrives on the future. Blocks while the backlog is full, unless ``deadpool_block`` is false. May
    /// be called from any thread, and from signal handlers.
    ///
    /// :param deadpool_timeout: Seconds from the start of the task until its worker is killed; 0 fails
    ///     the task at once, None means never.
    /// :param deadpool_priority: 0 is the highest; first in, first out within one.
    /// :param deadpool_soft_timeout: Seconds from the start until :class:`SoftTimeoutError` is raised in
    ///     the task.
    /// :param deadpool_memory_limit_bytes: Memory of the worker's process tree over which it is killed.
    /// :param deadpool_retries: How many more times the task may run after its worker died.
    /// :param deadpool_block: Whether to wait for room in the backlog.
    /// :raises PoolClosed: If the pool is closed, also while waiting for room.
    /// :raises BacklogFull: If there is no room and ``deadpool_block`` is false.
    /// :raises TypeError: If ``fn`` is not callable, a limit is of another type, or a ``deadpool_``
    ///     keyword is unknown.
    /// :raises ValueError: If a limit is out of range.
    #[pyo3(signature = (
        r#fn, /, *args, deadpool_timeout=None, deadpool_priority=None, deadpool_soft_timeout=None,
        deadpool_memory_limit_bytes=None, deadpool_retries=None, deadpool_block=true, **kwargs
    ), text_signature = "(self, fn, /, *args, deadpool_timeout=None, deadpool_priority=0, \
deadpool_soft_timeout=None, deadpool_memory_limit_bytes=None, deadpool_retries=0, deadpool_block=True, **kwargs)")]
    #[allow(clippy::too_many_arguments, reason = "it is the signature that users see")]
    #[allow(clippy::doc_markdown, reason = "the docstring is Python's, in reStructuredText")]
    fn submit(
        slf: &Bound<'_, Self>,
        py: Python<'_>,
        r#fn: &Bound<'_, PyAny>,
        args: &Bound<'_, PyTuple>,
        deadpool_timeout: Option<&Bound<'_, PyAny>>,
        deadpool_priority: Option<&Bound<'_, PyAny>>,
        deadpool_soft_timeout: Option<&Bound<'_, PyAny>>,
        deadpool_memory_limit_bytes: Option<&Bound<'_, PyAny>>,
        deadpool_retries: Option<&Bound<'_, PyAny>>,
        deadpool_block: bool,
        kwargs: Option<&Bound<'_, PyDict>>,
    ) -> PyResult<Py<FutureBase>> {
        let this = slf.get();
        let open = this.open()?;
        let limits = TaskArguments {
            timeout: deadpool_timeout,
            soft_timeout: deadpool_soft_timeout,
            priority: deadpool_priority,
            memory_limit_bytes: deadpool_memory_limit_bytes,
            retries: deadpool_retries,
        };
        let (priority, limits) = limits.check()?;
        refuse_unknown(kwargs)?;
        if !r#fn.is_callable() {
            let class = r#fn.get_type();
            return Err(PyTypeError::new_err(format!(
                "the first argument of submit() must be callable, not {class}"
            )));
        }
        if open.link.shared.gate().is_closed() {
            return Err(this.closed(py));
        }
        if let Some(propagate) = &open.propagate {
            propagate.call0(py)?;
        }
        let link = Arc::clone(&open.link);
        let (future, handle) =
            future::new_task(py, open.future_class.bind(py), link, r#fn, open.watches_starts)?;
        let call = PyTuple::new(
            py,
            [
                r#fn,
                args.as_any(),
                kwargs.map_or(&py.None().into_bound(py), |kwargs| kwargs.as_any()),
            ],
        )?;
        let payload = match open.link.serializer.dumps(py, call.as_any()) {
            Ok(payload) => payload,
            Err(error) if error.is_instance_of::<PyException>(py) => {
                open.link.post(Command::CountUnpicklable);
                FutureBase::finish(future.bind(py), End::Raised(error.into_value(py).into_any()))?;
                return Ok(future);
            }
            Err(error) => return Err(error),
        };
        if let Err(error) = this.enter(py, deadpool_block) {
            // Nobody has seen the future; this breaks its cycle with the handle.
            FutureBase::finish(future.bind(py), End::CancelledUnnotified)?;
            return Err(error);
        }
        let (id, watched) = (handle.id(), open.watches_starts);
        let spec = TaskSpec { id, priority, limits, watched, cancelled_early: false };
        let submission = Submission { spec, payload, handle };
        let late = if open.holds_back {
            open.link.shared.hold_back(submission)
        } else {
            open.link.shared.submit(submission)
        };
        for (late, outcome) in late {
            future::settle(py, &late, outcome, Interrupts::Logged)?;
        }
        Ok(future)
    }

    /// Run the tasks that were submitted, where that waits for this. Does not block.
    fn _hand_over(&self) -> PyResult<()> {
        self.shared()?.hand_over();
        Ok(())
    }

    /// Cancel the tasks that wait for ``_hand_over``.
    ///
    /// Waits for the supervisor's turn, and for no other thread that takes the GIL.
    fn _cancel_held(&self) -> PyResult<()> {
        self.shared()?.cancel_held();
        Ok(())
    }

    /// Refuse further tasks, and tell the supervisor how the pool is to end.
    ///
    /// Blocks until the futures that this cancels have ended, if ``wait`` is true.
    fn _close(&self, py: Python<'_>, mode: ShutdownMode, wait: bool) -> PyResult<()> {
        let shared = self.shared()?;
        let (done, told) = crossbeam_channel::bounded(0);
        shared.gate().close();
        shared.post(Command::Shutdown(mode.into(), done));
        loop {
            if !wait {
                break;
            }
            let told = py.detach(|| told.recv_timeout(SIGNAL_INTERVAL));
            match told {
                Err(crossbeam_channel::RecvTimeoutError::Timeout) => py.check_signals()?,
                _ => break,
            }
        }
        Ok(())
    }

    fn _clear_workers(&self) -> PyResult<()> {
        self.shared()?.post(Command::ClearWorkers);
        Ok(())
    }

    fn _resize(&self, max_workers: usize, min_workers: usize) -> PyResult<()> {
        self.shared()?.post(Command::Resize { max_workers, min_workers });
        Ok(())
    }

    /// How many tasks wait for a worker.
    fn _waiting(&self) -> PyResult<usize> {
        Ok(self.shared()?.gate().taken())
    }

    /// Something that tells of room in the backlog through a descriptor.
    fn _room_bell(&self) -> PyResult<RoomBell> {
        let shared = Arc::clone(self.shared()?);
        let waker = Arc::new(Waker::new()?);
        shared.gate().add_bell(&waker);
        Ok(RoomBell::new(shared, waker))
    }

    fn _reset_counters(&self, py: Python<'_>) -> PyResult<()> {
        let shared = self.shared()?;
        py.detach(|| shared.reset_statistics());
        Ok(())
    }

    /// Return the futures of the tasks that run.
    fn _running(&self, py: Python<'_>) -> PyResult<Vec<Py<FutureBase>>> {
        let shared = self.shared()?;
        let reports = py.detach(|| shared.workers());
        let running = reports.into_iter().filter_map(|report| report.task);
        Ok(running.filter_map(|(handle, _)| handle.side().future(py)).collect())
    }

    fn _counters(&self, py: Python<'_>) -> PyResult<Py<PyDict>> {
        let shared = self.shared()?;
        let Statistics {
            tasks_received,
            tasks_launched,
            tasks_failed,
            worker_processes_created,
            max_workers_busy_concurrently,
            worker_processes_still_alive,
            worker_processes_idle,
            worker_processes_busy,
        } = py.detach(|| shared.statistics());
        let dict = PyDict::new(py);
        dict.set_item("tasks_received", tasks_received)?;
        dict.set_item("tasks_launched", tasks_launched)?;
        dict.set_item("tasks_failed", tasks_failed)?;
        dict.set_item("worker_processes_created", worker_processes_created)?;
        dict.set_item("max_workers_busy_concurrently", max_workers_busy_concurrently)?;
        dict.set_item("worker_processes_still_alive", worker_processes_still_alive)?;
        dict.set_item("worker_processes_idle", worker_processes_idle)?;
        dict.set_item("worker_processes_busy", worker_processes_busy)?;
        Ok(dict.unbind())
    }

    /// Tuples of pid, state, name of the task, seconds that it runs, tasks done, resident bytes.
    #[allow(clippy::type_complexity, reason = "named in the class that Python makes of it")]
    fn _workers(
        &self,
        py: Python<'_>,
    ) -> PyResult<Vec<(Option<u32>, &'static str, Option<String>, Option<f64>, u64, Option<u64>)>>
    {
        let shared = self.shared()?;
        let reports = py.detach(|| shared.workers());
        let rows = reports.into_iter().map(|report| {
            let (task, seconds) = report.task.map_or((None, None), |(handle, seconds)| {
                (Some(future::task_name(py, &handle)), Some(seconds))
            });
            (report.pid, report.state, task, seconds, report.tasks_done, report.rss_bytes)
        });
        Ok(rows.collect())
    }
}

/// How often a thread that waits for the supervisor looks for signals.
const SIGNAL_INTERVAL: Duration = Duration::from_millis(100);
