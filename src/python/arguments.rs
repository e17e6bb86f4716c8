//! Arguments of users, checked with a sentence that names them.

use std::time::Duration;

use pyo3::exceptions::{PyTypeError, PyValueError};
use pyo3::prelude::*;
use pyo3::types::{PyBool, PyDict, PyFloat, PyInt, PyString};

use crate::task::{Limits, Priority};

/// What begins like this in `submit` is ours, and not for the task's function.
const PREFIX: &str = "deadpool_";

/// Seconds as a duration; `None` and infinity mean no limit.
pub(super) fn seconds(name: &str, value: Option<&Bound<'_, PyAny>>) -> PyResult<Option<Duration>> {
    let Some(value) = value.filter(|value| !value.is_none()) else { return Ok(None) };
    let is_number = value.is_instance_of::<PyFloat>() || value.is_instance_of::<PyInt>();
    let seconds = match value.extract::<f64>() {
        Ok(seconds) if !value.is_instance_of::<PyBool>() => seconds,
        // An integer that is too large for a float.
        Err(_) if is_number && value.lt(0)? => f64::NEG_INFINITY,
        Err(_) if is_number => f64::INFINITY,
        _ => {
            let class = value.get_type();
            return Err(PyTypeError::new_err(format!(
                "{name} must be a number of seconds or None, not {class}"
            )));
        }
    };
    if seconds.is_nan() || seconds < 0.0 {
        return Err(PyValueError::new_err(format!("{name} must be >= 0 seconds, not {seconds}")));
    }
    // What does not fit is longer than anybody will wait.
    Ok(Duration::try_from_secs_f64(seconds).ok())
}

/// A whole number of at least `least`; `None` where it is not given.
pub(super) fn whole(
    name: &str,
    value: Option<&Bound<'_, PyAny>>,
    least: u64,
) -> PyResult<Option<u64>> {
    let Some(value) = value.filter(|value| !value.is_none()) else { return Ok(None) };
    let index = value.call_method0("__index__").ok().filter(|_| !value.is_instance_of::<PyBool>());
    let Some(index) = index else {
        let class = value.get_type();
        return Err(PyTypeError::new_err(format!("{name} must be an integer, not {class}")));
    };
    if index.lt(least)? {
        return Err(PyValueError::new_err(format!("{name} must be >= {least}, not {value}")));
    }
    index
        .extract::<u64>()
        .map(Some)
        .map_err(|_| PyValueError::new_err(format!("{name} must be less than 2**64, not {value}")))
}

/// The arguments of `submit` that are about the task and not for it.
pub(super) struct TaskArguments<'a, 'py> {
    pub timeout: Option<&'a Bound<'py, PyAny>>,
    pub soft_timeout: Option<&'a Bound<'py, PyAny>>,
    pub priority: Option<&'a Bound<'py, PyAny>>,
    pub memory_limit_bytes: Option<&'a Bound<'py, PyAny>>,
    pub retries: Option<&'a Bound<'py, PyAny>>,
}

impl TaskArguments<'_, '_> {
    /// Check them all.
    pub fn check(&self) -> PyResult<(Priority, Limits)> {
        let limits = Limits {
            timeout: seconds("deadpool_timeout", self.timeout)?,
            soft_timeout: seconds("deadpool_soft_timeout", self.soft_timeout)?,
            memory_limit_bytes: whole("deadpool_memory_limit_bytes", self.memory_limit_bytes, 1)?,
            retries: small("deadpool_retries", self.retries)?,
        };
        Ok((Priority(small("deadpool_priority", self.priority)?), limits))
    }
}

fn small(name: &str, value: Option<&Bound<'_, PyAny>>) -> PyResult<u32> {
    let value = whole(name, value, 0)?.unwrap_or(0);
    u32::try_from(value)
        .map_err(|_| PyValueError::new_err(format!("{name} must be less than 2**32, not {value}")))
}

/// Refuse keywords that look like ours and are not, which a typing error would make of them.
pub(super) fn refuse_unknown(kwargs: Option<&Bound<'_, PyDict>>) -> PyResult<()> {
    for name in kwargs.into_iter().flat_map(PyDictMethods::keys) {
        let Ok(name) = name.cast_into::<PyString>() else { continue };
        let name = name.to_string_lossy();
        if name.starts_with(PREFIX) {
            return Err(PyTypeError::new_err(format!(
                "submit() got an unexpected keyword argument '{name}'; keywords that begin with 'deadpool_' \
                 are the pool's, and are not passed to the function"
            )));
        }
    }
    Ok(())
}
