//! Zygotes, which fork the workers, and the fork server that forks them.

use std::os::fd::{AsRawFd, BorrowedFd, RawFd};
use std::sync::PoisonError;

use pyo3::prelude::*;

use crate::child::watcher;
use crate::child::zygote::{Forker, WorkerFds, Zygote};
use crate::python::descriptors::own;
use crate::sys::process_tree;

/// Run a zygote until the parent is gone or wants it to end. Blocks.
#[pyfunction]
pub(super) fn run_zygote(control: RawFd, fork: &Bound<'_, PyAny>) -> PyResult<()> {
    struct Python<'a, 'py>(&'a Bound<'py, PyAny>);

    impl Forker for Python<'_, '_> {
        fn fork(
            &mut self,
            worker: u64,
            fds: &WorkerFds,
            inherited: &[RawFd],
        ) -> Result<u32, String> {
            let WorkerFds { socket, page, control, parent } = fds;
            let fds = [socket, page, control, parent].map(AsRawFd::as_raw_fd);
            let forked = self.0.call1((worker, fds.to_vec(), inherited.to_vec()));
            forked.and_then(|pid| pid.extract()).map_err(|error| error.to_string())
        }
    }

    // Once for all workers, and while that is possible: a task may use up what an import needs.
    fork.py().import("deadpool._failures")?;
    Zygote::new(own(control))?.run(&mut Python(fork));
    Ok(())
}

/// Kill what is below this process, but for the children `spared`.
#[pyfunction]
#[allow(clippy::needless_pass_by_value, reason = "it is made of a Python list")]
pub(super) fn kill_children(spared: Vec<u32>) {
    process_tree::kill_children_of_self(&spared);
}

/// Ends this process with its parent, until it is told to stop.
#[pyclass(module = "deadpool._core", frozen)]
pub struct ParentWatch(std::sync::Mutex<Option<watcher::ParentWatch>>);

#[pymethods]
impl ParentWatch {
    /// Begin to watch; `parent` is a pidfd, which stays the caller's.
    #[new]
    fn new(parent: RawFd) -> PyResult<Self> {
        // SAFETY: the descriptor is the caller's, and open until this call returns.
        let parent = unsafe { BorrowedFd::borrow_raw(parent) }.try_clone_to_owned()?;
        Ok(Self(std::sync::Mutex::new(Some(watcher::ParentWatch::start(parent)?))))
    }

    /// Watch no more. Waits for the thread that does.
    fn stop(&self) {
        if let Some(watch) = self.0.lock().unwrap_or_else(PoisonError::into_inner).take() {
            watch.stop();
        }
    }
}
