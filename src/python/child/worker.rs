//! The native part of a worker: its loop, driven by `deadpool._child.worker`.

use std::os::fd::{AsRawFd, RawFd};
use std::sync::Arc;
use std::sync::atomic::{AtomicPtr, AtomicU64, Ordering};

use pyo3::exceptions::PyRuntimeError;
use pyo3::prelude::*;
use pyo3::types::{PyDict, PyTuple};

use crate::child::session::{Ended, Interpreter, Reply, Session};
use crate::child::watcher::{self, Watcher};
use crate::sys::bell::Bell;
use crate::sys::pidfd::PidFd;
use crate::sys::{fork_guard, malloc, memory, prctl, signals};
use crate::wire::page::PageUser;
use crate::wire::payload::Payload;
use crate::wire::protocol::{soft_timeout_signal, stack_signal};

use crate::python::descriptors::own;
use crate::python::pickling::Serializer;

use super::encoding::{encode_exception, unpicklable_result};

/// The page and the bell of the supervisor, for the handler of the stack signal.
static STACK_PAGE: AtomicPtr<PageUser> = AtomicPtr::new(std::ptr::null_mut());
static STACK_BELL: AtomicPtr<Bell> = AtomicPtr::new(std::ptr::null_mut());

/// Tells the supervisor that `faulthandler`, which calls this after itself, has written the stack.
extern "C" fn stack_written(_signal: libc::c_int) {
    let page = STACK_PAGE.load(Ordering::Acquire);
    let bell = STACK_BELL.load(Ordering::Acquire);
    // SAFETY: both were leaked before this handler was installed, and their methods are
    // async-signal-safe.
    unsafe {
        if let (Some(page), Some(bell)) = (page.as_ref(), bell.as_ref()) {
            page.mark_stack_dumped();
            bell.ring();
        }
    }
}

/// A worker's process.
#[pyclass(module = "deadpool._core", frozen)]
pub struct Worker {
    page: Arc<PageUser>,
    session: std::sync::Mutex<Option<Session>>,
    // The number of the running task plus one, 0 while none runs.
    running: Arc<AtomicU64>,
    settings: Settings,
    // A task before may have blocked them.
    signals: signals::Wanted,
    serializer: Arc<Serializer>,
}

#[derive(Clone, Copy)]
struct Settings {
    max_memory_bytes: Option<u64>,
    trim_threshold_bytes: Option<u64>,
}

#[pymethods]
impl Worker {
    /// Take over the descriptors of a new worker: socket, page, control, parent.
    #[new]
    fn new(
        fds: [RawFd; 4],
        serializer: &Bound<'_, PyAny>,
        max_memory_bytes: Option<u64>,
        trim_threshold_bytes: Option<u64>,
    ) -> PyResult<Self> {
        let [socket, page, control, parent] = fds.map(own);
        prctl::become_subreaper()?;
        prctl::set_name(c"deadpool-worker")?;
        let page = Arc::new(PageUser::from_owned(page)?);
        let control = Bell::from_owned(control);
        let bell = control.try_clone()?;
        let watcher =
            Watcher { parent: PidFd::from_owned(parent), control, page: Arc::clone(&page) };
        watcher.start(run_exit_handlers)?;
        STACK_PAGE.store(Arc::into_raw(Arc::clone(&page)).cast_mut(), Ordering::Release);
        STACK_BELL.store(Box::into_raw(Box::new(bell)), Ordering::Release);
        // SAFETY: the handler is async-signal-safe and stays for the life of the process.
        unsafe {
            let handler = stack_written as extern "C" fn(libc::c_int);
            libc::signal(stack_signal(), handler as libc::sighandler_t);
        }
        // Counted from here on, so that a fork that a task makes can be told from the worker.
        fork_guard::generation();
        Ok(Self {
            session: std::sync::Mutex::new(Some(Session::new(socket, Arc::clone(&page)))),
            page,
            running: Arc::new(AtomicU64::new(0)),
            settings: Settings { max_memory_bytes, trim_threshold_bytes },
            signals: signals::Wanted::new(&[stack_signal(), soft_timeout_signal()]),
            serializer: Arc::new(Serializer::new(serializer)?),
        })
    }

    /// Where `faulthandler` is to write.
    fn stack_fd(&self) -> RawFd {
        use std::os::fd::AsFd;
        self.page.stack_fd().as_fd().as_raw_fd()
    }

    /// How many exit handlers user code has registered.
    fn set_exit_handlers(&self, count: u32) {
        self.page.set_exit_handlers(count);
    }

    /// Whether the soft timeout of the task that runs now is to be raised; for a signal handler.
    ///
    /// True once for each task: its signal is sent again where it may not have been seen.
    fn take_interrupt(&self) -> bool {
        let running = self.running.load(Ordering::Acquire).checked_sub(1);
        let seq = running.and_then(|seq| u32::try_from(seq).ok());
        seq.is_some_and(|seq| self.page.take_soft_interrupt(seq))
    }

    /// Wait for the environment and apply it with `apply(pickled)`. Blocks.
    fn receive_environ(&self, py: Python<'_>, apply: &Bound<'_, PyAny>) -> PyResult<()> {
        let mut session = self.take_session()?;
        let going_on = session.receive_environ(&mut self.interpreter(py, apply));
        self.put_session(session);
        if !going_on? {
            watcher::die();
        }
        Ok(())
    }

    /// Say that the initializer raised.
    fn initializer_failed(&self, py: Python<'_>, error: &Bound<'_, PyAny>) -> PyResult<()> {
        let exception = encode_exception(py, PyErr::from_value(error.clone()), &self.serializer);
        let session = self.take_session()?;
        let told = session.initializer_failed(&exception);
        self.put_session(session);
        Ok(told?)
    }

    /// Run tasks until the supervisor wants no more. Blocks.
    fn run(&self, py: Python<'_>, apply: &Bound<'_, PyAny>) -> PyResult<()> {
        let mut session = self.take_session()?;
        session.ready()?;
        let ended = session.run(&mut self.interpreter(py, apply));
        // The connection stays open until the process ends: its end means the end of the process.
        self.put_session(session);
        match ended? {
            Ended::Retired => Ok(()),
            Ended::Abandoned => watcher::die(),
        }
    }
}

impl Worker {
    fn take_session(&self) -> PyResult<Session> {
        let taken = self.session.try_lock().ok().and_then(|mut session| session.take());
        taken.ok_or_else(|| PyRuntimeError::new_err("the worker's loop runs already"))
    }

    fn put_session(&self, session: Session) {
        if let Ok(mut place) = self.session.lock() {
            *place = Some(session);
        }
    }

    fn interpreter<'a, 'py>(
        &'a self,
        py: Python<'py>,
        apply: &'a Bound<'py, PyAny>,
    ) -> PythonInterpreter<'a, 'py> {
        PythonInterpreter { py, worker: self, apply, generation: fork_guard::generation() }
    }
}

/// The interpreter that runs the tasks of a worker.
struct PythonInterpreter<'a, 'py> {
    py: Python<'py>,
    worker: &'a Worker,
    apply: &'a Bound<'py, PyAny>,
    generation: u32,
}

impl PythonInterpreter<'_, '_> {
    fn evaluate(&self, seq: u32, call: Payload) -> PyResult<Payload> {
        let py = self.py;
        let serializer = &self.worker.serializer;
        let call = serializer.loads(py, call)?.into_bound(py);
        let call = call.cast_into::<PyTuple>()?;
        let (function, args, kwargs) = (call.get_item(0)?, call.get_item(1)?, call.get_item(2)?);
        let args = args.cast_into::<PyTuple>()?;
        let kwargs = kwargs.cast_into::<PyDict>().ok();
        self.worker.signals.unblock();
        // The call's own reference would keep the arguments alive through the pickling of the result.
        drop(call);
        self.worker.running.store(u64::from(seq) + 1, Ordering::SeqCst);
        if self.worker.page.soft_interrupt() == Some(seq) {
            // The soft timeout came while the call was unpickled, when its handler did nothing.
            // SAFETY: the call takes no pointer; Python's handler is installed.
            unsafe { libc::raise(soft_timeout_signal()) };
        }
        let result = function.call(args, kwargs.as_ref());
        self.worker.running.store(0, Ordering::Release);
        drop(function);
        let result = result?;
        serializer.dumps(py, &result).map_err(|error| unpicklable_result(py, &result, error))
    }

    /// A fork that a task made must not answer in its place.
    fn leave_if_forked(&self) {
        if self.generation != fork_guard::generation() {
            let flush = self
                .py
                .import("deadpool._child.worker")
                .and_then(|module| module.call_method0("flush_streams"));
            drop(flush);
            // SAFETY: the call takes no pointer and does not return.
            unsafe { libc::_exit(0) }
        }
    }

    fn look_at_memory(&self) -> bool {
        let Settings { max_memory_bytes, trim_threshold_bytes } = self.worker.settings;
        if max_memory_bytes.is_none() && trim_threshold_bytes.is_none() {
            return false;
        }
        let look = || memory::rss_bytes(std::process::id()).unwrap_or(0);
        let mut rss_bytes = look();
        let is_over = |limit: Option<u64>, bytes| limit.is_some_and(|limit| bytes >= limit);
        let is_much =
            is_over(trim_threshold_bytes, rss_bytes) || is_over(max_memory_bytes, rss_bytes);
        if is_much && self.worker.serializer.stock().clear() {
            rss_bytes = look();
        }
        if trim_threshold_bytes.is_some_and(|threshold| rss_bytes > threshold) && malloc::trim() {
            rss_bytes = look();
        }
        self.worker.page.set_rss_bytes(rss_bytes);
        is_over(max_memory_bytes, rss_bytes)
    }
}

impl Interpreter for PythonInterpreter<'_, '_> {
    fn call(&mut self, seq: u32, call: Payload) -> Reply {
        let result = self.evaluate(seq, call);
        self.leave_if_forked();
        let (raised, payload) = match result {
            Ok(payload) => (false, payload),
            Err(error) => (true, encode_exception(self.py, error, &self.worker.serializer)),
        };
        Reply { raised, payload, recycle: self.look_at_memory() }
    }

    fn apply_environ(&mut self, changes: Payload) {
        if let Err(error) = self.apply.call1((changes.body.as_slice(),)) {
            error.write_unraisable(self.py, Some(self.apply));
        }
    }

    fn while_others_run<R: Send>(&mut self, act: impl FnOnce() -> R + Send) -> R {
        self.py.detach(act)
    }

    fn handle_signals(&mut self) {
        if let Err(error) = self.py.check_signals() {
            // Raised by a handler of user code, at no fault of any task.
            error.write_unraisable(self.py, None);
        }
    }
}

/// Run what user code has registered with `atexit`, in the watcher's thread.
fn run_exit_handlers() {
    Python::attach(|py| {
        let run = py
            .import("deadpool._child.worker")
            .and_then(|module| module.call_method0("run_exit_handlers"));
        if let Err(error) = run {
            error.write_unraisable(py, None);
        }
    });
}
