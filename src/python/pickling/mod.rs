//! Objects to payloads and back, on both sides of the socket.
//!
//! The default is the C pickler at protocol 5 with the reducers of
//! `multiprocessing.reduction.ForkingPickler`, so that connections, sockets and whatever a library
//! registered there can be sent as with the standard library's executor. `ForkingPickler` makes a
//! pickler, a buffer and a merged table for every object, which costs several times what pickling a
//! call does. Here all three are kept:
//!
//! - The table is merged again only when one of its two sources has changed.
//! - The pickler writes into a [`Sink`], whose bytes become the payload without another copy.
//! - The pickler is taken out of its slot while it works: a `__reduce__` that pickles, or another
//!   thread, finds the slot empty and makes its own. After an error or a long pickle it is thrown
//!   away: its memo never shrinks, and clearing it goes through every entry.
//!
//! What is large does not go through a pipe, but lies in shared memory, see [`crate::wire::payload`]: the
//! out-of-band buffers of a pickle (PEP 574), as arrays have them, and a large pickle itself, which
//! the pickler writes there. The other side unpickles where the data lies. A [`View`] is what it
//! looks at; the buffers may be written to, since the mapping is private.

mod large;
mod pickler;
pub(super) mod view;

use std::sync::{Arc, Mutex};

use pyo3::buffer::PyBuffer;
use pyo3::exceptions::PyTypeError;
use pyo3::intern;
use pyo3::prelude::*;
use pyo3::sync::PyOnceLock;
use pyo3::types::{PyBytes, PyDict, PyList};

use crate::fallible;
use crate::wire::payload::Payload;
use crate::wire::stock::Stock;

use large::{Large, attach};
use pickler::{Pickler, SEGMENT_FROM_BYTES, Written, lock};
use view::View;

/// Shorter payloads are copied into a `bytes` object, which is cheaper to make than a [`View`].
const COPY_BELOW_BYTES: usize = 4096;

/// A `bytes` object; `PyBytes::new` would panic without memory.
fn new_bytes<'py>(py: Python<'py>, bytes: &[u8]) -> PyResult<Bound<'py, PyBytes>> {
    PyBytes::new_with(py, bytes.len(), |copy| {
        copy.copy_from_slice(bytes);
        Ok(())
    })
}

/// How a pool's calls and results are pickled.
pub struct Serializer {
    kind: Kind,
    stock: Arc<Stock>,
}

/// What can be unpickled, also more than once.
pub(super) struct Readable<'py> {
    pickled: Bound<'py, PyAny>,
    buffers: Option<Bound<'py, PyList>>,
}

enum Kind {
    Standard { pickler: Mutex<Option<Pickler>> },
    Custom { dumps: Py<PyAny>, loads: Py<PyAny> },
}

impl Serializer {
    /// From the argument `serializer` of a pool: `None` and the module `pickle` mean the default.
    pub fn new(argument: &Bound<'_, PyAny>) -> PyResult<Self> {
        let py = argument.py();
        if argument.is_none() || argument.is(py.import("pickle")?) {
            let kind = Kind::Standard { pickler: Mutex::new(None) };
            return Ok(Self { kind, stock: Arc::default() });
        }
        let function = |name: &str| {
            let function = argument.getattr_opt(name)?;
            function.filter(Bound::is_callable).ok_or_else(|| {
                let class = argument.get_type();
                PyTypeError::new_err(format!(
                    "serializer must have the functions dumps and loads, as the module pickle has, \
                     but {class} has no {name}"
                ))
            })
        };
        let (dumps, loads) = (function("dumps")?.unbind(), function("loads")?.unbind());
        Ok(Self { kind: Kind::Custom { dumps, loads }, stock: Arc::default() })
    }

    /// The memory that large data goes through.
    pub fn stock(&self) -> &Arc<Stock> {
        &self.stock
    }

    /// Pickles an object.
    pub fn dumps(&self, py: Python<'_>, object: &Bound<'_, PyAny>) -> PyResult<Payload> {
        match &self.kind {
            Kind::Standard { pickler } => {
                let Written { bytes, large, buffers } =
                    Self::with_pickler(py, pickler, object, Some(&self.stock))?;
                if large.is_none() && buffers.is_empty() {
                    return Ok(bytes.into());
                }
                match attach(py, bytes, large, &buffers, &self.stock) {
                    Some(payload) => Ok(payload),
                    // There is no memory to share: then all of it goes through the socket.
                    None => self.dumps_inline(py, object).map(Payload::from),
                }
            }
            Kind::Custom { .. } => {
                let bytes = self.dumps_inline(py, object)?;
                let large = (bytes.len() >= SEGMENT_FROM_BYTES)
                    .then(|| Large::begin(&self.stock, &bytes, 0))
                    .flatten();
                match large.and_then(|large| attach(py, Vec::new(), Some(large), &[], &self.stock))
                {
                    Some(payload) => Ok(payload),
                    None => Ok(bytes.into()),
                }
            }
        }
    }

    /// Pickles an object into one piece, whatever its size.
    pub fn dumps_inline(&self, py: Python<'_>, object: &Bound<'_, PyAny>) -> PyResult<Vec<u8>> {
        match &self.kind {
            Kind::Standard { pickler } => Ok(Self::with_pickler(py, pickler, object, None)?.bytes),
            Kind::Custom { dumps, .. } => {
                let pickled = dumps.bind(py).call1((object,))?;
                if let Ok(bytes) = pickled.cast::<PyBytes>() {
                    return Ok(fallible::copy_of(bytes.as_bytes())?);
                }
                let buffer = PyBuffer::<u8>::get(&pickled).map_err(|_| {
                    let class = pickled.get_type();
                    PyTypeError::new_err(format!(
                        "serializer.dumps must return bytes, but it returned {class}"
                    ))
                })?;
                let mut bytes = Vec::new();
                fallible::reserve_exact(&mut bytes, buffer.item_count())?;
                bytes.resize(buffer.item_count(), 0);
                buffer.copy_to_slice(py, &mut bytes)?;
                Ok(bytes)
            }
        }
    }

    fn with_pickler(
        py: Python<'_>,
        slot: &Mutex<Option<Pickler>>,
        object: &Bound<'_, PyAny>,
        stock: Option<&Arc<Stock>>,
    ) -> PyResult<Written> {
        let taken = lock(slot).take();
        let mut working = match taken {
            Some(taken) => taken,
            None => Pickler::new(py)?,
        };
        let written = working.dump(py, object, stock)?;
        // Another thread's may be there by now; it goes when the lock is free again.
        let replaced = lock(slot).replace(working);
        drop(replaced);
        Ok(written)
    }

    /// Unpickles a payload.
    pub fn loads(&self, py: Python<'_>, payload: Payload) -> PyResult<Py<PyAny>> {
        self.loads_readable(&self.readable(py, payload)?)
    }

    /// The payload as something that can be unpickled.
    pub(super) fn readable<'py>(
        &self,
        py: Python<'py>,
        payload: Payload,
    ) -> PyResult<Readable<'py>> {
        // What is not pickle may insist on bytes.
        let insists_on_bytes = matches!(self.kind, Kind::Custom { .. });
        let Payload { body, attachment } = payload;
        let Some(attachment) = attachment else {
            let pickled = if insists_on_bytes || body.len() < COPY_BELOW_BYTES {
                new_bytes(py, &body)?.into_any()
            } else {
                Bound::new(py, View::of_bytes(body))?.into_any()
            };
            return Ok(Readable { pickled, buffers: None });
        };
        let (pickle, buffers) = view::open(py, &body, attachment)?;
        let pickled = if insists_on_bytes {
            new_bytes(py, pickle.as_slice())?.into_any()
        } else {
            Bound::new(py, pickle)?.into_any()
        };
        Ok(Readable { pickled, buffers: Some(buffers) })
    }

    /// Unpickles it.
    pub(super) fn loads_readable(&self, readable: &Readable<'_>) -> PyResult<Py<PyAny>> {
        static LOADS: PyOnceLock<Py<PyAny>> = PyOnceLock::new();
        let pickled = &readable.pickled;
        let py = pickled.py();
        let Kind::Custom { loads, .. } = &self.kind else {
            let loads = LOADS.import(py, "pickle", "loads")?;
            let Some(buffers) = &readable.buffers else {
                return Ok(loads.call1((pickled,))?.unbind());
            };
            let keywords = PyDict::new(py);
            keywords.set_item(intern!(py, "buffers"), buffers)?;
            return Ok(loads.call((pickled,), Some(&keywords))?.unbind());
        };
        loads.call1(py, (pickled,))
    }
}
