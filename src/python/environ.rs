//! The environment that a pool propagates to its workers, on its way to the supervisor.

use std::sync::{Arc, Mutex, PoisonError};

use pyo3::prelude::*;
use pyo3::types::PyDict;

use crate::supervisor::{Command, Shared};
use crate::wire::payload::Payload;

use super::future::PySide;

/// Adds the class to the module.
pub(super) fn register(module: &Bound<'_, PyModule>) -> PyResult<()> {
    module.add_class::<EnvironSender>()
}

/// Sends the environment of workers to the supervisor, the latest last.
#[pyclass(module = "deadpool._core", frozen)]
pub struct EnvironSender {
    shared: Arc<Shared<PySide>>,
    last: Mutex<Option<(u64, Py<PyDict>)>>,
}

impl EnvironSender {
    pub(super) fn new(shared: Arc<Shared<PySide>>) -> Self {
        Self { shared, last: Mutex::new(None) }
    }
}

#[pymethods]
impl EnvironSender {
    /// Send what was seen with this ticket; return whether ``pickled`` is wanted for that and missing.
    ///
    /// Does not block, and runs no Python code.
    #[pyo3(signature = (ticket, environ, pickled = None))]
    fn send(
        &self,
        ticket: u64,
        environ: &Bound<'_, PyDict>,
        pickled: Option<Vec<u8>>,
    ) -> PyResult<bool> {
        let replaced = {
            let mut last = self.last.lock().unwrap_or_else(PoisonError::into_inner);
            if let Some((seen, sent)) = &mut *last {
                if *seen > ticket {
                    return Ok(false);
                }
                if sent.bind(environ.py()).eq(environ)? {
                    *seen = ticket;
                    return Ok(false);
                }
            }
            let Some(pickled) = pickled else { return Ok(true) };
            self.shared.post(Command::Environ(Some(Payload::from(pickled))));
            last.replace((ticket, environ.clone().unbind()))
        };
        // Freed here, after the lock.
        drop(replaced);
        Ok(false)
    }
}
