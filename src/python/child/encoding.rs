//! Exceptions on their way out of a worker.
//!
//! What an exception needs (its traceback as text, its reducer) is Python's, so `deadpool._failures`
//! takes it apart; it is not on the fast path.

use pyo3::exceptions::PyException;
use pyo3::prelude::*;
use pyo3::types::PyString;

use crate::fallible;
use crate::python::exception_frame::{PICKLED, UNPICKLABLE, frame};
use crate::python::pickling::Serializer;
use crate::wire::payload::Payload;

/// Writes an exception for the other side's [`decode_exception`].
///
/// Never fails: an exception that can't be pickled arrives as a `ProcessError` that says so.
pub fn encode_exception(py: Python<'_>, error: PyErr, serializer: &Serializer) -> Payload {
    let exception = error.into_value(py);
    let exception = exception.bind(py).as_any();
    let encoded = (|| {
        let remote = py.import("deadpool._failures")?;
        // Borrowed from Python, which raises where there is no memory for it.
        let text = remote.call_method1("describe", (exception,))?.cast_into::<PyString>()?;
        let pickled = remote
            .call_method1("take_apart", (exception,))
            .and_then(|parts| serializer.dumps_inline(py, &parts));
        let (kind, rest) = match pickled {
            Ok(pickled) => (PICKLED, pickled),
            Err(error) => {
                let arguments = (exception, error.into_value(py));
                let stand_in = remote.call_method1("stand_in", &arguments)?;
                if stand_in.is_none() {
                    let message = remote.call_method1("unpicklable", arguments)?;
                    let message = message.cast_into::<PyString>()?;
                    (UNPICKLABLE, fallible::copy_of(message.to_str()?.as_bytes())?)
                } else {
                    let parts = remote.call_method1("take_apart", (stand_in,))?;
                    (PICKLED, serializer.dumps_inline(py, &parts)?)
                }
            }
        };
        remote.call_method1("forget_frames", (exception,))?;
        PyResult::Ok(frame(kind, text.to_str()?, &rest)?)
    })();
    encoded.unwrap_or_else(|error| {
        // Out of memory, or out of stack: whatever can still be said.
        let message = format!("a task raised an exception, and pickling it failed: {error}");
        // What can't even be said so is read as an exception that can't be read.
        frame(UNPICKLABLE, "", message.as_bytes()).unwrap_or_default()
    })
}

/// What is told of a result that can't be pickled: the error, unless somebody has set another.
pub fn unpicklable_result(py: Python<'_>, value: &Bound<'_, PyAny>, error: PyErr) -> PyErr {
    if !error.is_instance_of::<PyException>(py) {
        return error;
    }
    let stand_in = py
        .import("deadpool._failures")
        .and_then(|remote| remote.call_method1("stand_in", (value, error.value(py))));
    match stand_in {
        Ok(stand_in) if !stand_in.is_none() => PyErr::from_value(stand_in),
        _ => error,
    }
}
