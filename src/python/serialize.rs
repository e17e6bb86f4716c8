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
//! Large payloads are unpickled where they lie: [`Body`] is a bytes-like view that owns them.
//!
//! Out-of-band buffers (PEP 574) fit in at two places and need no other: `Pickler` takes a
//! `buffer_callback` where it is made here, and `loads` takes `buffers`; the payload would carry the
//! list between them.

use std::ffi::{c_int, c_void};
use std::ptr;
use std::sync::{Mutex, MutexGuard, PoisonError};

use pyo3::buffer::{PyBuffer, PyUntypedBuffer};
use pyo3::exceptions::{PyBufferError, PyTypeError};
use pyo3::prelude::*;
use pyo3::sync::PyOnceLock;
use pyo3::types::{PyBytes, PyDict, PyType};
use pyo3::{ffi, intern};

use crate::payload::Payload;

/// Shorter payloads are copied into a `bytes` object, which is cheaper to make than a [`Body`].
const COPY_BELOW_BYTES: usize = 4096;
/// After a longer pickle the memo may be so large that a new pickler is cheaper than clearing it.
const KEEP_PICKLER_BELOW_BYTES: usize = 4096;
const PROTOCOL: u8 = 5;

/// Adds the classes to the module.
pub fn register(module: &Bound<'_, PyModule>) -> PyResult<()> {
    module.add_class::<Sink>()?;
    module.add_class::<Body>()
}

/// How a pool's calls and results are pickled.
pub struct Serializer {
    kind: Kind,
}

enum Kind {
    Standard { pickler: Mutex<Option<Pickler>> },
    Custom { dumps: Py<PyAny>, loads: Py<PyAny> },
}

impl Serializer {
    /// The default.
    pub fn standard() -> Self {
        Self { kind: Kind::Standard { pickler: Mutex::new(None) } }
    }

    /// From the argument `serializer` of a pool: `None` and the module `pickle` mean the default.
    pub fn new(argument: &Bound<'_, PyAny>) -> PyResult<Self> {
        let py = argument.py();
        if argument.is_none() || argument.is(py.import("pickle")?) {
            return Ok(Self::standard());
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
        Ok(Self { kind: Kind::Custom { dumps, loads } })
    }

    /// Pickles an object.
    pub fn dumps(&self, py: Python<'_>, object: &Bound<'_, PyAny>) -> PyResult<Payload> {
        match &self.kind {
            Kind::Standard { pickler } => {
                let taken = lock(pickler).take();
                let mut working = match taken {
                    Some(taken) => taken,
                    None => Pickler::new(py)?,
                };
                let body = working.dump(py, object)?;
                // Another thread's may be there by now; it goes when the lock is free again.
                let replaced = lock(pickler).replace(working);
                drop(replaced);
                Ok(body.into())
            }
            Kind::Custom { dumps, .. } => {
                let pickled = dumps.bind(py).call1((object,))?;
                if let Ok(bytes) = pickled.cast::<PyBytes>() {
                    return Ok(bytes.as_bytes().to_vec().into());
                }
                let buffer = PyBuffer::<u8>::get(&pickled).map_err(|_| {
                    let class = pickled.get_type();
                    PyTypeError::new_err(format!(
                        "serializer.dumps must return bytes, but it returned {class}"
                    ))
                })?;
                Ok(buffer.to_vec(py)?.into())
            }
        }
    }

    /// Unpickles a payload.
    pub fn loads(&self, py: Python<'_>, payload: Payload) -> PyResult<Py<PyAny>> {
        self.loads_object(&self.readable(py, payload)?)
    }

    /// The payload as a bytes-like object, which can be unpickled more than once.
    pub(super) fn readable<'py>(
        &self,
        py: Python<'py>,
        payload: Payload,
    ) -> PyResult<Bound<'py, PyAny>> {
        // What is not pickle may insist on bytes.
        let copied = payload.len() < COPY_BELOW_BYTES || matches!(self.kind, Kind::Custom { .. });
        if copied {
            return Ok(PyBytes::new(py, &payload.body).into_any());
        }
        Ok(Bound::new(py, Body { bytes: payload.body })?.into_any())
    }

    /// Unpickles a bytes-like object.
    pub(super) fn loads_object(&self, pickled: &Bound<'_, PyAny>) -> PyResult<Py<PyAny>> {
        let py = pickled.py();
        match &self.kind {
            Kind::Standard { .. } => {
                static LOADS: PyOnceLock<Py<PyAny>> = PyOnceLock::new();
                Ok(LOADS.import(py, "pickle", "loads")?.call1((pickled,))?.unbind())
            }
            Kind::Custom { loads, .. } => loads.call1(py, (pickled,)),
        }
    }
}

/// A pickler to use again, with what it writes into.
struct Pickler {
    /// The object of Python's; thrown away when its memo may have become large.
    inner: Option<Py<PyAny>>,
    sink: Py<Sink>,
    table: Table,
}

impl Pickler {
    fn new(py: Python<'_>) -> PyResult<Self> {
        Ok(Self { inner: None, sink: Py::new(py, Sink::default())?, table: Table::new(py)? })
    }

    fn dump(&mut self, py: Python<'_>, object: &Bound<'_, PyAny>) -> PyResult<Vec<u8>> {
        static CLASS: PyOnceLock<Py<PyType>> = PyOnceLock::new();
        if self.table.is_stale(py) {
            self.table = Table::new(py)?;
            self.inner = None;
        }
        let pickler = if let Some(pickler) = self.inner.take() {
            pickler.into_bound(py)
        } else {
            let class = CLASS.import(py, "pickle", "Pickler")?;
            let pickler = class.call1((&self.sink, PROTOCOL))?;
            pickler.setattr(intern!(py, "dispatch_table"), &self.table.merged)?;
            pickler
        };
        pickler.call_method1(intern!(py, "dump"), (object,))?;
        let body = std::mem::take(&mut *lock(&self.sink.get().bytes));
        if body.len() <= KEEP_PICKLER_BELOW_BYTES {
            // The memo keeps every object alive that was pickled.
            pickler.call_method0(intern!(py, "clear_memo"))?;
            self.inner = Some(pickler.unbind());
        }
        Ok(body)
    }
}

/// The reducers of `copyreg` with those of `ForkingPickler` over them.
struct Table {
    merged: Py<PyDict>,
    sources: [Py<PyDict>; 2],
    /// What stood in the sources when they were merged.
    seen: Vec<(*mut ffi::PyObject, *mut ffi::PyObject)>,
}

// SAFETY: the pointers are compared and never followed.
unsafe impl Send for Table {}

impl Table {
    fn new(py: Python<'_>) -> PyResult<Self> {
        let sources = [
            py.import("copyreg")?.getattr("dispatch_table")?,
            py.import("multiprocessing.reduction")?
                .getattr("ForkingPickler")?
                .getattr("_extra_reducers")?,
        ];
        let [registered, extra] = sources;
        let sources = [registered.cast_into::<PyDict>()?, extra.cast_into::<PyDict>()?];
        let merged = PyDict::new(py);
        let mut seen = Vec::new();
        for source in &sources {
            merged.update(source.as_mapping())?;
            seen.extend(source.iter().map(|(class, reducer)| (class.as_ptr(), reducer.as_ptr())));
        }
        Ok(Self { merged: merged.unbind(), sources: sources.map(Bound::unbind), seen })
    }

    /// Whether anything was registered since. The merged table keeps what it has alive, so that
    /// nothing else can have the same address.
    fn is_stale(&self, py: Python<'_>) -> bool {
        let mut seen = self.seen.iter();
        for source in &self.sources {
            let source = source.bind(py);
            let mut position = 0;
            let (mut class, mut reducer) = (ptr::null_mut(), ptr::null_mut());
            // SAFETY: the dict is alive, nothing runs between the steps that could change it, and
            // the borrowed references are not kept.
            while unsafe {
                ffi::PyDict_Next(
                    source.as_ptr(),
                    &raw mut position,
                    &raw mut class,
                    &raw mut reducer,
                )
            } != 0
            {
                if seen.next() != Some(&(class, reducer)) {
                    return true;
                }
            }
        }
        seen.next().is_some()
    }
}

/// What a pickler writes into: a file with `write` and nothing else.
#[pyclass(module = "deadpool._core", name = "_Sink", frozen)]
#[derive(Default)]
struct Sink {
    bytes: Mutex<Vec<u8>>,
}

#[pymethods]
impl Sink {
    fn write(&self, data: &Bound<'_, PyAny>) -> PyResult<usize> {
        if let Ok(data) = data.cast::<PyBytes>() {
            lock(&self.bytes).extend_from_slice(data.as_bytes());
            return Ok(data.as_bytes().len());
        }
        // The pickler writes bytes, and hands large objects over as they are, whatever their items.
        let buffer = PyUntypedBuffer::get(data)?;
        let length = buffer.len_bytes();
        if !buffer.is_c_contiguous() && !buffer.is_fortran_contiguous() {
            return Err(PyBufferError::new_err(
                "an object was pickled that lies in several pieces",
            ));
        }
        if length > 0 {
            // SAFETY: the exporter vouches for so many bytes in one piece while `buffer` lives, and
            // the GIL is held until they are copied.
            let piece =
                unsafe { std::slice::from_raw_parts(buffer.buf_ptr().cast::<u8>(), length) };
            lock(&self.bytes).extend_from_slice(piece);
        }
        Ok(length)
    }
}

/// A payload as Python sees it: read-only, without a copy.
#[pyclass(module = "deadpool._core", name = "_Body", frozen)]
struct Body {
    bytes: Vec<u8>,
}

#[pymethods]
impl Body {
    #[allow(clippy::needless_pass_by_value, reason = "the receiver that the slot asks for")]
    unsafe fn __getbuffer__(
        slf: Bound<'_, Self>,
        view: *mut ffi::Py_buffer,
        flags: c_int,
    ) -> PyResult<()> {
        let bytes = &slf.get().bytes;
        let length = ffi::Py_ssize_t::try_from(bytes.len())
            .map_err(|_| PyBufferError::new_err("the payload is too large"))?;
        let start = bytes.as_ptr().cast_mut().cast::<c_void>();
        // SAFETY: the view is the interpreter's to fill; it takes a reference to this object, whose
        // bytes never move or change, and read-only is asked for.
        let status = unsafe { ffi::PyBuffer_FillInfo(view, slf.as_ptr(), start, length, 1, flags) };
        if status == 0 { Ok(()) } else { Err(PyErr::fetch(slf.py())) }
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
