//! The only code that knows Python.
//!
//! * parent: [`pool`] is the native base of `deadpool.Deadpool`, [`completer`] and [`launcher`] what its
//!   threads run, [`future`] and its neighbours the futures;
//! * child: [`child`] runs zygotes and workers;
//! * both: [`pickling`] pickles, [`exception_frame`] carries exceptions across.

mod arguments;
mod child;
mod completer;
mod descriptors;
mod environ;
mod exception_frame;
mod future;
mod launcher;
mod logging;
mod machine;
mod pickling;
mod pool;
mod room_bell;
mod stdlib;

use pyo3::prelude::*;

/// The native core of `deadpool`; private.
#[pymodule]
fn _core(module: &Bound<'_, PyModule>) -> PyResult<()> {
    module.add("__version__", env!("CARGO_PKG_VERSION"))?;
    future::register(module)?;
    pool::register(module)?;
    completer::register(module)?;
    environ::register(module)?;
    launcher::register(module)?;
    machine::register(module)?;
    room_bell::register(module)?;
    child::register(module)
}

impl From<crate::error::Error> for PyErr {
    fn from(error: crate::error::Error) -> Self {
        use crate::error::Error;
        match error {
            Error::OutOfMemory(_) => {
                pyo3::exceptions::PyMemoryError::new_err(format!("failed to {error}"))
            }
            Error::Syscall { ref source, .. } if source.raw_os_error() == Some(libc::ENOMEM) => {
                pyo3::exceptions::PyMemoryError::new_err(format!("failed to {error}"))
            }
            Error::Config(sentence) => pyo3::exceptions::PyValueError::new_err(sentence),
            Error::Syscall { ref source, .. } => {
                let errno = source.raw_os_error().unwrap_or(0);
                pyo3::exceptions::PyOSError::new_err((errno, format!("failed to {error}")))
            }
            error @ (Error::Protocol(_) | Error::SharedMemory(_)) => {
                pyo3::exceptions::PyRuntimeError::new_err(format!("failed to {error}"))
            }
        }
    }
}
