//! The native part of `deadpool.Future`.
//!
//! `class Future(FutureBase, concurrent.futures.Future)`: every method of the standard library's
//! future is replaced, and what its constructor would set is a property made when somebody asks.
//! Its `Condition` alone costs ten times what this whole object does, and most futures never need
//! one: a thread that waits in `result()` sleeps on the word of the task's handle instead.
//!
//! Invariants:
//!
//! - The state goes from pending to ended once, in [`FutureBase::finish`]. The value is set with it.
//! - The inner lock is held for moves only: nothing is allocated, dropped or called under it that
//!   could run Python code.
//! - Where a `Condition` was made, the state changes under it too: the standard library's `wait` and
//!   `as_completed` hold it while they look at the state and add their waiter.
//! - A pool's future holds its handle, and the handle holds the future, until the future ends.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError, TryLockResult};

use pyo3::prelude::*;
use pyo3::types::PyList;

use super::link::Handle;

/// The native part of :class:`deadpool.Future`.
#[pyclass(module = "deadpool._core", subclass, frozen, dict, weakref)]
#[derive(Default)]
pub struct FutureBase {
    inner: Mutex<Inner>,
}

#[derive(Default)]
pub(super) struct Inner {
    pub(super) state: State,
    /// Whether `value` is an exception to raise.
    pub(super) raised: bool,
    /// The worker that ran it, kept when the handle goes; 0 if none did.
    pub(super) pid: u32,
    pub(super) value: Option<Py<PyAny>>,
    /// A pool's future has one until it has a result; another one gets one when it is waited for.
    pub(super) handle: Option<Arc<Handle>>,
    pub(super) extras: Option<Box<Extras>>,
}

/// What most futures never have.
#[derive(Default)]
pub(super) struct Extras {
    pub(super) condition: Option<Py<PyAny>>,
    pub(super) waiters: Option<Py<PyList>>,
    pub(super) callbacks: Option<Py<PyList>>,
    pub(super) pid_callbacks: Option<Py<PyList>>,
    pub(super) soft_timeout_callbacks: Option<Py<PyList>>,
    pub(super) soft_timeout_passed: bool,
    /// What the exception had when it was set: each `result()` starts from it.
    pub(super) traceback: Option<Py<PyAny>>,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) enum State {
    #[default]
    Pending,
    Running,
    Cancelled,
    CancelledAndNotified,
    Finished,
}

impl State {
    pub(super) const ALL: [Self; 5] =
        [Self::Pending, Self::Running, Self::Cancelled, Self::CancelledAndNotified, Self::Finished];

    pub(super) const fn name(self) -> &'static str {
        match self {
            Self::Pending => "PENDING",
            Self::Running => "RUNNING",
            Self::Cancelled => "CANCELLED",
            Self::CancelledAndNotified => "CANCELLED_AND_NOTIFIED",
            Self::Finished => "FINISHED",
        }
    }

    pub(super) const fn description(self) -> &'static str {
        match self {
            Self::Pending => "pending",
            Self::Running => "running",
            Self::Cancelled | Self::CancelledAndNotified => "cancelled",
            Self::Finished => "finished",
        }
    }

    pub(super) const fn is_cancelled(self) -> bool {
        matches!(self, Self::Cancelled | Self::CancelledAndNotified)
    }

    pub(super) const fn is_done(self) -> bool {
        matches!(self, Self::Cancelled | Self::CancelledAndNotified | Self::Finished)
    }
}

/// How a future ends.
pub enum End {
    /// With a result.
    Returned(Py<PyAny>),
    /// With an exception.
    Raised(Py<PyAny>),
    /// Cancelled; waiters are told.
    Cancelled,
    /// Cancelled; `set_running_or_notify_cancel` will tell the waiters.
    CancelledUnnotified,
}

impl End {
    /// The method of the standard library's waiters that tells of it.
    pub(super) const fn notification(&self) -> Option<&'static str> {
        match self {
            Self::Returned(_) => Some("add_result"),
            Self::Raised(_) => Some("add_exception"),
            Self::Cancelled => Some("add_cancelled"),
            Self::CancelledUnnotified => None,
        }
    }
}

/// What is left to do when a future has ended; all of it may run Python code.
#[derive(Default)]
pub(super) struct Aftermath {
    pub(super) handle: Option<Arc<Handle>>,
    pub(super) waiters: Option<Py<PyList>>,
    pub(super) callbacks: Option<Py<PyList>>,
    pub(super) pid_callbacks: Option<Py<PyList>>,
}

impl Inner {
    pub(super) fn extras(&mut self) -> &mut Extras {
        self.extras.get_or_insert_default()
    }

    pub(super) fn pid(&self) -> Option<u32> {
        let pid = self.handle.as_ref().and_then(|handle| handle.pid());
        pid.or(Some(self.pid).filter(|&pid| pid != 0))
    }

    /// The state as the standard library names it.
    pub(super) fn visible_state(&self) -> State {
        match self.state {
            State::Pending if self.pid().is_some() => State::Running,
            state => state,
        }
    }

    pub(super) fn end(
        &mut self,
        py: Python<'_>,
        end: End,
        traceback: Option<Py<PyAny>>,
    ) -> Aftermath {
        self.pid = self.pid().unwrap_or(0);
        (self.state, self.value) = match end {
            End::Returned(value) => (State::Finished, Some(value)),
            End::Raised(value) => {
                self.raised = true;
                (State::Finished, Some(value))
            }
            End::Cancelled => (State::CancelledAndNotified, None),
            End::CancelledUnnotified => (State::Cancelled, None),
        };
        if traceback.is_some() {
            self.extras().traceback = traceback;
        }
        // A cancelled task may still run, and be killed by another call: that takes the handle.
        let handle = match self.state {
            State::Finished => self.handle.take(),
            _ => self.handle.clone(),
        };
        let Some(extras) = &mut self.extras else {
            return Aftermath { handle, ..Aftermath::default() };
        };
        Aftermath {
            handle,
            waiters: extras.waiters.as_ref().map(|waiters| waiters.clone_ref(py)),
            callbacks: extras.callbacks.take(),
            pid_callbacks: extras.pid_callbacks.take().filter(|_| self.pid != 0),
        }
    }
}

impl FutureBase {
    pub(super) fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// For the garbage collector, which must not wait.
    pub(super) fn try_lock(&self) -> TryLockResult<MutexGuard<'_, Inner>> {
        self.inner.try_lock()
    }

    /// The callbacks to call now that the task has started.
    pub(super) fn take_pid_callbacks(&self) -> Option<Py<PyList>> {
        self.lock().extras.as_mut()?.pid_callbacks.take()
    }

    /// Notes that the soft timeout has passed, and returns the callbacks to call now.
    pub(super) fn pass_soft_timeout(&self) -> Option<Py<PyList>> {
        let mut inner = self.lock();
        let extras = inner.extras();
        extras.soft_timeout_passed = true;
        extras.soft_timeout_callbacks.take()
    }

    /// Makes this a pool's future.
    pub(super) fn bind_handle(&self, handle: Arc<Handle>) {
        self.lock().handle = Some(handle);
    }

    /// The handle, if the future hasn't ended.
    pub(super) fn pending_handle(&self) -> Option<Arc<Handle>> {
        let inner = self.lock();
        if inner.state.is_done() { None } else { inner.handle.clone() }
    }

    /// Whether the task has ended and the future has not: what is on its way stays as it is.
    pub(super) fn has_untold_outcome(&self) -> bool {
        self.pending_handle().is_some_and(|handle| handle.has_outcome())
    }
}
