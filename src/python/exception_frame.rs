//! Outcomes to results and exceptions.
//!
//! What an exception needs (its traceback as text, its reducer, its constructor) is Python's, so
//! `deadpool._failures` takes it apart and puts it together; it is not on the fast path. The same goes
//! for the sentences that say what killed a task.
//!
//! An encoded exception is `kind: u8, text length: u64 little-endian, text, rest`. The text is the
//! remote traceback; the rest is a pickle, or the message of an exception that can't be pickled.
//! The traceback stands outside of the pickle, so that it arrives even where unpickling fails.

use pyo3::exceptions::{PyException, PyKeyboardInterrupt};
use pyo3::prelude::*;
use pyo3::types::PyDict;

use super::future::End;
use super::pickling::Serializer;
use super::pickling::view;
use super::settle::{Handle, task_name};
use crate::outcome::{Cause, DeathReport, Failure};
use crate::supervisor::Outcome;
use crate::wire::payload::Payload;

const PICKLED: u8 = 0;
const UNPICKLABLE: u8 = 1;

/// Writes an exception for the other side's [`decode_exception`].
///
/// Never fails: an exception that can't be pickled arrives as a `ProcessError` that says so.
pub fn encode_exception(py: Python<'_>, error: PyErr, serializer: &Serializer) -> Payload {
    let exception = error.into_value(py);
    let exception = exception.bind(py).as_any();
    let encoded = (|| {
        let remote = py.import("deadpool._failures")?;
        let text: String = remote.call_method1("describe", (exception,))?.extract()?;
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
                    (UNPICKLABLE, message.extract::<String>()?.into_bytes())
                } else {
                    let parts = remote.call_method1("take_apart", (stand_in,))?;
                    (PICKLED, serializer.dumps_inline(py, &parts)?)
                }
            }
        };
        remote.call_method1("forget_frames", (exception,))?;
        PyResult::Ok(frame(kind, &text, &rest))
    })();
    encoded.unwrap_or_else(|error| {
        // Out of memory, or out of stack: whatever can still be said.
        let message = format!("a task raised an exception, and pickling it failed: {error}");
        frame(UNPICKLABLE, "", message.as_bytes())
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
            .loads(py, rest.to_vec().into())
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
        Outcome::Raised(payload) if payload.is_lost() => (raised(view::lost()), None),
        Outcome::Raised(payload) => {
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
    facts.set_item("rss_bytes", report.rss_bytes)?;
    facts.set_item("oom_killed", report.oom_killed)?;
    facts.set_item("stack", report.stack.as_deref())
}

fn frame(kind: u8, text: &str, rest: &[u8]) -> Payload {
    let mut body = Vec::with_capacity(9 + text.len() + rest.len());
    body.push(kind);
    body.extend_from_slice(&(text.len() as u64).to_le_bytes());
    body.extend_from_slice(text.as_bytes());
    body.extend_from_slice(rest);
    body.into()
}

fn unframe(body: &[u8]) -> Option<(u8, &str, &[u8])> {
    let (&kind, body) = body.split_first()?;
    let (length, body) = body.split_first_chunk::<8>()?;
    let length = usize::try_from(u64::from_le_bytes(*length)).ok()?;
    let (text, rest) = body.split_at_checked(length)?;
    Some((kind, std::str::from_utf8(text).ok()?, rest))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_encoded_exception_is_read_back() {
        let payload = frame(PICKLED, "Traceback", b"rest");
        assert_eq!(unframe(&payload.body), Some((PICKLED, "Traceback", &b"rest"[..])));
    }

    #[test]
    fn anything_else_is_refused() {
        let good = frame(PICKLED, "Traceback", b"").body;
        for end in 0..good.len() {
            assert_eq!(unframe(&good[..end]), None);
        }
        assert_eq!(unframe(&[0xff; 64]), None);
    }
}
