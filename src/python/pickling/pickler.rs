//! Picklers that are used again, and what they write into.

use std::ptr;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use pyo3::buffer::PyUntypedBuffer;
use pyo3::exceptions::PyBufferError;
use pyo3::prelude::*;
use pyo3::sync::PyOnceLock;
use pyo3::types::{PyBytes, PyDict, PyType};
use pyo3::{ffi, intern};

use crate::error::Result;
use crate::fallible;
use crate::wire::stock::Stock;

use super::large::{Large, bytes_of};

const PROTOCOL: u8 = 5;
/// Shorter buffers are part of the pickle.
const OUT_OF_BAND_FROM_BYTES: usize = 32 << 10;
/// Longer pickles go into a segment.
pub(super) const SEGMENT_FROM_BYTES: usize = 128 << 10;
/// After a longer pickle the memo may be so large that a new pickler is cheaper than clearing it.
const KEEP_PICKLER_BELOW_BYTES: usize = 4096;
/// What a pickler has written.
pub(super) struct Written {
    /// The pickle, unless it is large.
    pub(super) bytes: Vec<u8>,
    pub(super) large: Option<Large>,
    pub(super) buffers: Vec<PyUntypedBuffer>,
}

/// A pickler to use again, with what it writes into.
pub(super) struct Pickler {
    /// The object of Python's; thrown away when its memo may have become large.
    inner: Option<Py<PyAny>>,
    sink: Py<Sink>,
    collector: Py<Collector>,
    table: Table,
}

impl Pickler {
    pub(super) fn new(py: Python<'_>) -> PyResult<Self> {
        Ok(Self {
            inner: None,
            sink: Py::new(py, Sink::default())?,
            collector: Py::new(py, Collector::default())?,
            table: Table::new(py)?,
        })
    }

    pub(super) fn dump(
        &mut self,
        py: Python<'_>,
        object: &Bound<'_, PyAny>,
        stock: Option<&Arc<Stock>>,
    ) -> PyResult<Written> {
        static CLASS: PyOnceLock<Py<PyType>> = PyOnceLock::new();
        if self.table.is_stale(py) {
            self.table = Table::new(py)?;
            self.inner = None;
        }
        let pickler = if let Some(pickler) = self.inner.take() {
            pickler.into_bound(py)
        } else {
            let class = CLASS.import(py, "pickle", "Pickler")?;
            let keywords = PyDict::new(py);
            keywords.set_item(intern!(py, "buffer_callback"), &self.collector)?;
            let pickler = class.call((&self.sink, PROTOCOL), Some(&keywords))?;
            pickler.setattr(intern!(py, "dispatch_table"), &self.table.merged)?;
            pickler
        };
        lock(&self.sink.get().0).stock = stock.cloned();
        self.collector.get().wanted.store(stock.is_some(), Ordering::Relaxed);
        let dumped = pickler.call_method1(intern!(py, "dump"), (object,));
        let pending = std::mem::take(&mut *lock(&self.sink.get().0));
        let buffers = std::mem::take(&mut *lock(&self.collector.get().buffers));
        dumped?;
        let Pending { bytes, large, .. } = pending;
        if bytes.len() <= KEEP_PICKLER_BELOW_BYTES && large.is_none() {
            // The memo keeps every object alive that was pickled.
            pickler.call_method0(intern!(py, "clear_memo"))?;
            self.inner = Some(pickler.unbind());
        }
        Ok(Written { bytes, large, buffers })
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
struct Sink(Mutex<Pending>);

/// A pickle that is being written.
#[derive(Default)]
struct Pending {
    bytes: Vec<u8>,
    large: Option<Large>,
    /// Where a large one finds a segment; none is asked for without.
    stock: Option<Arc<Stock>>,
}

impl Pending {
    fn append(&mut self, piece: &[u8]) -> Result<()> {
        if let Some(mut large) = self.large.take() {
            if large.make_room(piece.len()) {
                large.append(piece);
                self.large = Some(large);
                return Ok(());
            }
            self.bytes = fallible::copy_of(large.bytes())?;
            self.stock = None;
        } else if self.bytes.len() + piece.len() >= SEGMENT_FROM_BYTES
            && let Some(stock) = self.stock.take()
            && let Some(mut large) = Large::begin(&stock, &self.bytes, piece.len())
        {
            large.append(piece);
            self.large = Some(large);
            self.bytes = Vec::new();
            return Ok(());
        }
        fallible::append(&mut self.bytes, piece)
    }
}

#[pymethods]
impl Sink {
    fn write(&self, data: &Bound<'_, PyAny>) -> PyResult<usize> {
        if let Ok(data) = data.cast::<PyBytes>() {
            lock(&self.0).append(data.as_bytes())?;
            return Ok(data.as_bytes().len());
        }
        // The pickler writes bytes, and hands large objects over as they are, whatever their items.
        let buffer = in_one_piece(data)?;
        let piece = bytes_of(&buffer);
        lock(&self.0).append(piece)?;
        Ok(piece.len())
    }
}

/// What a pickler asks about each buffer that it could leave out.
#[pyclass(module = "deadpool._core", name = "_Collector", frozen)]
#[derive(Default)]
struct Collector {
    wanted: AtomicBool,
    buffers: Mutex<Vec<PyUntypedBuffer>>,
}

#[pymethods]
impl Collector {
    /// Take a buffer, or say that it is to be a part of the pickle.
    fn __call__(&self, buffer: &Bound<'_, PyAny>) -> PyResult<bool> {
        if !self.wanted.load(Ordering::Relaxed) {
            return Ok(true);
        }
        let buffer = in_one_piece(buffer)?;
        if buffer.len_bytes() < OUT_OF_BAND_FROM_BYTES {
            return Ok(true);
        }
        lock(&self.buffers).push(buffer);
        Ok(false)
    }
}

fn in_one_piece(data: &Bound<'_, PyAny>) -> PyResult<PyUntypedBuffer> {
    let buffer = PyUntypedBuffer::get(data)?;
    if !buffer.is_c_contiguous() && !buffer.is_fortran_contiguous() {
        return Err(PyBufferError::new_err("an object was pickled that lies in several pieces"));
    }
    Ok(buffer)
}

pub(super) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
