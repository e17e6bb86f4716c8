//! Room in the backlog, as an event loop can wait for it.

use std::os::fd::{AsFd, AsRawFd};
use std::sync::Arc;

use pyo3::prelude::*;

use crate::supervisor::Shared;
use crate::sys::waker::Waker;

use super::future::PySide;

/// Adds the class to the module.
pub(super) fn register(module: &Bound<'_, PyModule>) -> PyResult<()> {
    module.add_class::<RoomBell>()
}

/// Tells an event loop of room in the backlog.
#[pyclass(module = "deadpool._core", frozen)]
pub struct RoomBell {
    shared: Arc<Shared<PySide>>,
    waker: Arc<Waker>,
}

impl RoomBell {
    pub(super) fn new(shared: Arc<Shared<PySide>>, waker: Arc<Waker>) -> Self {
        Self { shared, waker }
    }
}

#[pymethods]
impl RoomBell {
    /// Return the descriptor, which is readable once there may be room.
    fn fileno(&self) -> i32 {
        self.waker.as_fd().as_raw_fd()
    }

    /// How many tasks could come in now; a pool that is closed has room to say so to all.
    fn take_free_slots(&self) -> usize {
        self.waker.drain();
        let gate = self.shared.gate();
        if gate.is_closed() { usize::MAX } else { gate.limit().saturating_sub(gate.taken()) }
    }
}
