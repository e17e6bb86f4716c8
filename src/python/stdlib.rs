//! What is used of Python's standard library: exceptions, loggers, `Condition`.

use pyo3::exceptions::PyBaseException;
use pyo3::ffi;
use pyo3::prelude::*;
use pyo3::sync::PyOnceLock;
use pyo3::types::{IntoPyDict, PyType};

use super::future::FutureBase;

/// Where the standard library logs what goes wrong in done-callbacks.
pub const FUTURES_LOGGER: &str = "concurrent.futures";
/// Where this package logs.
pub const DEADPOOL_LOGGER: &str = "deadpool";

/// `CancelledError()`.
pub fn cancelled_error(py: Python<'_>) -> PyErr {
    static CLASS: PyOnceLock<Py<PyType>> = PyOnceLock::new();
    raise(CLASS.import(py, "concurrent.futures", "CancelledError"), ())
}

/// `concurrent.futures.TimeoutError()`.
pub fn timeout_error(py: Python<'_>) -> PyErr {
    static CLASS: PyOnceLock<Py<PyType>> = PyOnceLock::new();
    raise(CLASS.import(py, "concurrent.futures", "TimeoutError"), ())
}

/// `InvalidStateError(message)`.
pub fn invalid_state_error(py: Python<'_>, message: &str) -> PyErr {
    static CLASS: PyOnceLock<Py<PyType>> = PyOnceLock::new();
    raise(CLASS.import(py, "concurrent.futures", "InvalidStateError"), (message.to_owned(),))
}

fn raise<A>(class: PyResult<&Bound<'_, PyType>>, arguments: A) -> PyErr
where
    A: pyo3::PyErrArguments + Send + Sync + 'static,
{
    class.map_or_else(|error| error, |class| PyErr::from_type(class.clone(), arguments))
}

/// `threading.Condition()`.
pub fn new_condition(py: Python<'_>) -> PyResult<Py<PyAny>> {
    static CLASS: PyOnceLock<Py<PyType>> = PyOnceLock::new();
    Ok(CLASS.import(py, "threading", "Condition")?.call0()?.unbind())
}

/// The traceback that an exception carries.
pub fn traceback(exception: &Bound<'_, PyAny>) -> Option<Py<PyAny>> {
    let exception = exception.cast::<PyBaseException>().ok()?;
    // SAFETY: it is an exception object, and the call returns a new reference or null.
    unsafe {
        Bound::from_owned_ptr_or_opt(
            exception.py(),
            ffi::PyException_GetTraceback(exception.as_ptr()),
        )
    }
    .map(Bound::unbind)
}

/// An exception to raise, with exactly this traceback: raising the same object again and again must
/// not make its traceback longer each time.
pub fn to_raise(exception: &Bound<'_, PyAny>, traceback: Option<Py<PyAny>>) -> PyErr {
    if exception.is_instance_of::<PyBaseException>() {
        let traceback = traceback.unwrap_or_else(|| exception.py().None());
        // SAFETY: the first is an exception object, the second a traceback it once had, or None.
        // The call can only refuse what is neither, and takes its own reference.
        unsafe { ffi::PyException_SetTraceback(exception.as_ptr(), traceback.as_ptr()) };
    }
    PyErr::from_value(exception.clone())
}

/// Logs an exception; what goes wrong in logging is dropped, as `logging` itself does.
pub fn log_exception(
    py: Python<'_>,
    logger: &str,
    message: &str,
    future: &Bound<'_, FutureBase>,
    error: PyErr,
) {
    let outcome = (|| {
        let options = [("exc_info", error.into_value(py))].into_py_dict(py)?;
        logger_named(py, logger)?.call_method("error", (message, future), Some(&options))
    })();
    if let Err(error) = outcome {
        error.write_unraisable(py, None);
    }
}

/// Logs that `set_running_or_notify_cancel` was called at the wrong time.
pub fn log_unexpected_state(future: &Bound<'_, FutureBase>, state: &str) {
    let py = future.py();
    let logged = logger_named(py, FUTURES_LOGGER).and_then(|logger| {
        let identity = future.as_ptr() as usize;
        logger.call_method1("critical", ("Future %s in unexpected state: %s", identity, state))
    });
    if let Err(error) = logged {
        error.write_unraisable(py, None);
    }
}

fn logger_named<'py>(py: Python<'py>, name: &str) -> PyResult<Bound<'py, PyAny>> {
    py.import("logging")?.call_method1("getLogger", (name,))
}
