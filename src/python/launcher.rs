//! What the thread runs that starts processes: it asks for its next job here, and does it in Python.
//!
//! It does not know the `Deadpool` object, so that can be collected while it runs.

use std::os::fd::IntoRawFd;
use std::sync::Arc;

use crossbeam_channel::Receiver;
use pyo3::prelude::*;

use crate::policy::event::Shutdown;
use crate::supervisor::{Command, Launch, Shared};

use super::future::PySide;

/// Adds the class to the module.
pub(super) fn register(module: &Bound<'_, PyModule>) -> PyResult<()> {
    module.add_class::<Launcher>()
}

/// Knows which zygotes of one pool are wanted.
#[pyclass(module = "deadpool._core", frozen)]
pub struct Launcher {
    launches: Receiver<Launch>,
    shared: Arc<Shared<PySide>>,
}

impl Launcher {
    pub(super) fn new(launches: Receiver<Launch>, shared: Arc<Shared<PySide>>) -> Self {
        Self { launches, shared }
    }
}

#[pymethods]
impl Launcher {
    /// Wait for the next job. Blocks.
    fn next(&self, py: Python<'_>) -> Option<(u64, Option<i32>)> {
        match py.detach(|| self.launches.recv()) {
            Ok(Launch::Zygote { zygote, control }) => Some((zygote, Some(control.into_raw_fd()))),
            Ok(Launch::Reap(zygote)) => Some((zygote, None)),
            Ok(Launch::LookAtEnviron) => Some((0, None)),
            Ok(Launch::Stop) | Err(_) => None,
        }
    }

    /// Let the pool finish what was submitted, and end.
    fn close(&self) {
        let (done, _) = crossbeam_channel::bounded(0);
        self.shared.gate().close();
        self.shared.post(Command::Shutdown(Shutdown::Drain, done));
    }

    /// Say that the environment of workers was looked at, and sent if it had changed.
    fn environ_looked_at(&self) {
        self.shared.post(Command::Environ(None));
    }

    /// Say that a zygote was started.
    fn launched(&self, zygote: u64, pid: u32) {
        self.shared.post(Command::Launched { zygote, result: Ok(pid) });
    }

    /// Say that a zygote could not be started.
    fn failed(&self, zygote: u64, reason: String) {
        self.shared.post(Command::Launched { zygote, result: Err(reason) });
    }

    /// Return the descriptors of the supervisor, which a forked child has copies of and must close.
    fn descriptors(&self, py: Python<'_>) -> Vec<i32> {
        py.detach(|| self.shared.descriptors())
    }
}
