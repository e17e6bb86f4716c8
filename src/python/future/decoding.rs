//! Outcomes to results and exceptions.
//!
//! `deadpool._failures` puts an exception together, and has the sentences that say what killed a task.

use pyo3::exceptions::PyKeyboardInterrupt;
use pyo3::prelude::*;
use pyo3::types::PyDict;

use crate::fallible;
use crate::outcome::{Cause, DeathReport, Failure};
use crate::python::exception_frame::{UNPICKLABLE, unframe};
use crate::python::pickling::{Serializer, view};
use crate::supervisor::Outcome;
use crate::wire::payload::Payload;

use super::link::Handle;
use super::naming::task_name;
use super::object::End;

/// Reads what [`encode_exception`] wrote. Never fails: where the exception can't be rebuilt, the
/// error that came of it stands in for it.
pub fn decode_exception(py: Python<'_>, payload: &Payload, serializer: &Serializer) -> Py<PyAny> {
    let decoded = (|| {
        let remote = py.import("deadpool._failures")?;
        let Some((kind, text, rest)) = unframe(&payload.body) else {
            let message = "the worker sent an exception that can't be read";
            return remote.call_method1("process_error", (message, ""));
        };
        if kind == UNPICKLABLE {
            return remote.call_method1("process_error", (String::from_utf8_lossy(rest), text));
        }
        let rebuilt = serializer
            .loads(py, fallible::copy_of(rest)?.into())
            .and_then(|parts| remote.call_method1("put_together", (parts,)));
        let exception =
            rebuilt.unwrap_or_else(|error| error.into_value(py).into_bound(py).into_any());
        remote.call_method1("attach_traceback", (exception, text))
    })();
    decoded.map_or_else(|error| error.into_value(py).into_any(), Bound::unbind)
}

/// What a task's outcome means for its future. Of the two, the second is a Ctrl-C that came in the
/// middle, which is the calling thread's to raise and must not become the task's exception.
pub(super) fn decode(py: Python<'_>, handle: &Handle, outcome: Outcome) -> (End, Option<PyErr>) {
    let Some(link) = handle.side().link() else { return (End::Cancelled, None) };
    let serializer = link.serializer();
    let raised = |error: PyErr| End::Raised(error.into_value(py).into_any());
    match outcome {
        Outcome::Returned(payload) => {
            let loaded = serializer.readable(py, payload).and_then(|pickled| {
                let first = serializer.loads_readable(&pickled);
                match first {
                    // A second time, the error is what the pickle raises.
                    Err(error) if error.is_instance_of::<PyKeyboardInterrupt>(py) => {
                        let second = serializer.loads_readable(&pickled)?;
                        Ok((second, Some(error)))
                    }
                    first => first.map(|value| (value, None)),
                }
            });
            match loaded {
                Ok((value, interrupt)) => (End::Returned(value), interrupt),
                Err(error) => {
                    link.count_unreadable();
                    (raised(error), None)
                }
            }
        }
        Outcome::Raised(payload) => {
            if let Some(shortage) = payload.shortage() {
                return (raised(view::lost(shortage)), None);
            }
            let is_interrupt =
                |exception: &Py<PyAny>| exception.bind(py).is_instance_of::<PyKeyboardInterrupt>();
            let first = decode_exception(py, &payload, serializer);
            if !is_interrupt(&first) {
                return (End::Raised(first), None);
            }
            // The task's own, or a Ctrl-C that came while this one was read: then it is gone now.
            let second = decode_exception(py, &payload, serializer);
            let interrupt =
                (!is_interrupt(&second)).then(|| PyErr::from_value(first.into_bound(py)));
            (End::Raised(second), interrupt)
        }
        Outcome::Failed(failure) => {
            let exception = failure_to_exception(py, handle, &failure, serializer);
            (exception.map_or_else(raised, End::Raised), None)
        }
        Outcome::Cancelled => (End::Cancelled, None),
    }
}

fn failure_to_exception(
    py: Python<'_>,
    handle: &Handle,
    failure: &Failure<Payload>,
    serializer: &Serializer,
) -> PyResult<Py<PyAny>> {
    let facts = PyDict::new(py);
    facts.set_item("task", task_name(py, handle))?;
    if let Some(report) = &failure.report {
        set_report(&facts, report)?;
    }
    let kind = match &failure.cause {
        Cause::TimedOut { timeout } => {
            facts.set_item("timeout", timeout.as_secs_f64())?;
            "timed_out"
        }
        Cause::MemoryExceeded { limit_bytes, used_bytes } => {
            facts.set_item("limit_bytes", limit_bytes)?;
            facts.set_item("used_bytes", used_bytes)?;
            "memory_exceeded"
        }
        Cause::WorkerDied { attempts } => {
            facts.set_item("attempts", attempts)?;
            "worker_died"
        }
        Cause::Condemned { reason } => {
            facts.set_item("reason", reason)?;
            "condemned"
        }
        Cause::InitializerFailed { exception } => {
            facts.set_item("exception", decode_exception(py, exception, serializer))?;
            "initializer_failed"
        }
        Cause::NotStarted { reason } => {
            facts.set_item("reason", reason)?;
            "not_started"
        }
        Cause::PoolFailed { reason } => {
            facts.set_item("reason", reason)?;
            "pool_failed"
        }
    };
    let build = py.import("deadpool._failures")?.getattr("failure")?;
    Ok(build.call((kind,), Some(&facts))?.unbind())
}

fn set_report(facts: &Bound<'_, PyDict>, report: &DeathReport) -> PyResult<()> {
    facts.set_item("pid", report.pid)?;
    facts.set_item("exitcode", report.exit.exitcode())?;
    facts.set_item("survives", report.survives.as_deref())?;
    facts.set_item("rss_bytes", report.rss_bytes)?;
    facts.set_item("oom_killed", report.oom_killed)?;
    facts.set_item("stack", report.stack.as_deref())
}
