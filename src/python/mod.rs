//! The only code that knows Python.
//!
//! * parent: [`pool`] is the native base of `deadpool.Deadpool`, [`completer`] and [`launcher`] what its
//!   threads run, [`future`] and its neighbours the futures;
//! * child: [`child`] runs zygotes and workers;
//! * both: [`pickling`] pickles, [`exception_frame`] carries exceptions across.

mod arguments;
mod child;
mod completer;
mod exception_frame;
mod future;
mod launcher;
mod pickling;
mod pool;
mod settle;
mod stdlib;

use pyo3::prelude::*;
use pyo3::sync::PyOnceLock;

/// The native core of `deadpool`; private.
#[pymodule]
fn _core(module: &Bound<'_, PyModule>) -> PyResult<()> {
    module.add("__version__", env!("CARGO_PKG_VERSION"))?;
    future::register(module)?;
    pool::register(module)?;
    completer::register(module)?;
    launcher::register(module)?;
    child::register(module)
}

/// Has what the core says logged by Python. For the parent: workers say nothing, and start sooner
/// without the module that this imports.
fn install_logger(py: Python<'_>) -> PyResult<()> {
    static INSTALLED: PyOnceLock<()> = PyOnceLock::new();
    INSTALLED.get_or_try_init(py, || {
        // Records are few, and what the application does to its loggers must take effect at once.
        let logger = pyo3_log::Logger::new(py, pyo3_log::Caching::Nothing)?;
        // Another extension in the same process has its own copy of this crate, so this can't be taken.
        let _ = logger.filter(log::LevelFilter::Debug).install();
        PyResult::Ok(())
    })?;
    Ok(())
}

impl From<crate::error::Error> for PyErr {
    fn from(error: crate::error::Error) -> Self {
        use crate::error::Error;
        match error {
            Error::Config(sentence) => pyo3::exceptions::PyValueError::new_err(sentence),
            Error::Syscall { ref source, .. } => {
                let errno = source.raw_os_error().unwrap_or(0);
                pyo3::exceptions::PyOSError::new_err((errno, format!("failed to {error}")))
            }
            error @ Error::Frame(_) => {
                pyo3::exceptions::PyRuntimeError::new_err(format!("failed to {error}"))
            }
        }
    }
}
