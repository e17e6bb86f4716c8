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

pub(super) mod view;

use std::ptr;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use pyo3::buffer::{PyBuffer, PyUntypedBuffer};
use pyo3::exceptions::{PyBufferError, PyTypeError};
use pyo3::prelude::*;
use pyo3::sync::PyOnceLock;
use pyo3::types::{PyBytes, PyDict, PyList, PyType};
use pyo3::{ffi, intern};

use crate::wire::payload::{Attachment, Layout, Loan, Payload};
use crate::wire::stock::Stock;

use view::View;

/// Shorter payloads are copied into a `bytes` object, which is cheaper to make than a [`View`].
const COPY_BELOW_BYTES: usize = 4096;
/// After a longer pickle the memo may be so large that a new pickler is cheaper than clearing it.
const KEEP_PICKLER_BELOW_BYTES: usize = 4096;
/// Longer pickles go into a segment.
const SEGMENT_FROM_BYTES: usize = 128 << 10;
/// Shorter buffers are part of the pickle.
const OUT_OF_BAND_FROM_BYTES: usize = 32 << 10;
/// Room for what a pickler writes after a large piece.
const SLACK_BYTES: usize = 64 << 10;
/// While more is copied, other threads may have the GIL.
const DETACH_FROM_BYTES: usize = 1 << 20;
const PROTOCOL: u8 = 5;

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
                    return Ok(bytes.as_bytes().to_vec());
                }
                let buffer = PyBuffer::<u8>::get(&pickled).map_err(|_| {
                    let class = pickled.get_type();
                    PyTypeError::new_err(format!(
                        "serializer.dumps must return bytes, but it returned {class}"
                    ))
                })?;
                buffer.to_vec(py)
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
                PyBytes::new(py, &body).into_any()
            } else {
                Bound::new(py, View::of_bytes(body))?.into_any()
            };
            return Ok(Readable { pickled, buffers: None });
        };
        let (pickle, buffers) = view::open(py, &body, attachment)?;
        let pickled = if insists_on_bytes {
            PyBytes::new(py, pickle.as_slice()).into_any()
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

/// What a pickler has written.
struct Written {
    /// The pickle, unless it is large.
    bytes: Vec<u8>,
    large: Option<Large>,
    buffers: Vec<PyUntypedBuffer>,
}

/// A pickle in a segment.
struct Large {
    loan: Loan,
    used: usize,
}

impl Large {
    /// Copies what is there into a segment that has room for `more` bytes.
    fn begin(stock: &Arc<Stock>, bytes: &[u8], more: usize) -> Option<Self> {
        let mut large =
            Self { loan: Loan::take(stock, bytes.len() + more + SLACK_BYTES)?, used: 0 };
        large.append(bytes);
        Some(large)
    }

    fn bytes(&mut self) -> &[u8] {
        &self.loan.bytes_mut()[..self.used]
    }

    /// Makes room for `more` bytes. Says whether there is any.
    fn make_room(&mut self, more: usize) -> bool {
        let needed = self.used.saturating_add(more);
        if needed <= self.loan.bytes_mut().len() {
            return true;
        }
        let stock = Arc::clone(self.loan.stock());
        // Twice as much, so that what comes in many pieces is not moved as often.
        let room = needed.saturating_mul(2) - self.used;
        let larger = Self::begin(&stock, self.bytes(), room);
        larger.map(|larger| *self = larger).is_some()
    }

    fn append(&mut self, piece: &[u8]) {
        self.loan.bytes_mut()[self.used..][..piece.len()].copy_from_slice(piece);
        self.used += piece.len();
    }
}

/// Makes a payload of a pickle and its buffers. `None` if there is no segment to be had.
fn attach(
    py: Python<'_>,
    mut body: Vec<u8>,
    large: Option<Large>,
    buffers: &[PyUntypedBuffer],
    stock: &Arc<Stock>,
) -> Option<Payload> {
    let pieces: Vec<&[u8]> = buffers.iter().map(bytes_of).collect();
    let lens: Vec<usize> = pieces.iter().map(|piece| piece.len()).collect();
    let pickle = large.as_ref().map_or(0, |large| large.used);
    let layout = Layout::plan(pickle, &lens)?;
    let mut loan = match large {
        Some(mut large) => {
            let has_room = large.make_room(layout.end() - pickle);
            has_room.then_some(large.loan)?
        }
        None => Loan::take(stock, layout.end())?,
    };
    let room = loan.bytes_mut();
    let mut copy = || {
        for (piece, place) in pieces.iter().zip(&layout.buffers) {
            room[place.clone()].copy_from_slice(piece);
        }
    };
    if lens.iter().sum::<usize>() < DETACH_FROM_BYTES {
        copy();
    } else {
        py.detach(copy);
    }
    layout.write(&mut body);
    Some(Payload { body, attachment: Some(Attachment::Own(loan)) })
}

/// The bytes of a buffer, which lies in one piece.
fn bytes_of(buffer: &PyUntypedBuffer) -> &[u8] {
    let length = buffer.len_bytes();
    if length == 0 {
        return &[];
    }
    // SAFETY: the exporter vouches for so many bytes in one piece while `buffer` lives. Another
    // thread of the task that writes to them meanwhile gets some of them sent, as with any copy.
    unsafe { std::slice::from_raw_parts(buffer.buf_ptr().cast::<u8>(), length) }
}

/// A pickler to use again, with what it writes into.
struct Pickler {
    /// The object of Python's; thrown away when its memo may have become large.
    inner: Option<Py<PyAny>>,
    sink: Py<Sink>,
    collector: Py<Collector>,
    table: Table,
}

impl Pickler {
    fn new(py: Python<'_>) -> PyResult<Self> {
        Ok(Self {
            inner: None,
            sink: Py::new(py, Sink::default())?,
            collector: Py::new(py, Collector::default())?,
            table: Table::new(py)?,
        })
    }

    fn dump(
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
    fn append(&mut self, piece: &[u8]) {
        if let Some(mut large) = self.large.take() {
            if large.make_room(piece.len()) {
                large.append(piece);
                self.large = Some(large);
                return;
            }
            self.bytes = large.bytes().to_vec();
            self.stock = None;
        } else if self.bytes.len() + piece.len() >= SEGMENT_FROM_BYTES
            && let Some(stock) = self.stock.take()
            && let Some(mut large) = Large::begin(&stock, &self.bytes, piece.len())
        {
            large.append(piece);
            self.large = Some(large);
            self.bytes = Vec::new();
            return;
        }
        self.bytes.extend_from_slice(piece);
    }
}

#[pymethods]
impl Sink {
    fn write(&self, data: &Bound<'_, PyAny>) -> PyResult<usize> {
        if let Ok(data) = data.cast::<PyBytes>() {
            lock(&self.0).append(data.as_bytes());
            return Ok(data.as_bytes().len());
        }
        // The pickler writes bytes, and hands large objects over as they are, whatever their items.
        let buffer = in_one_piece(data)?;
        let piece = bytes_of(&buffer);
        lock(&self.0).append(piece);
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

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
