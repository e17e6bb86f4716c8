//! What unpickling looks at: bytes where they lie, without a copy.

use std::ffi::{c_int, c_void};
use std::ops::Range;
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use nix::errno::Errno;
use pyo3::exceptions::{PyBufferError, PyMemoryError, PyOSError};
use pyo3::ffi;
use pyo3::prelude::*;
use pyo3::types::{PyByteArray, PyList};

use crate::error::Result;
use crate::fallible;
use crate::wire::payload::{Attachment, Layout, Shortage};
use crate::wire::segment::Borrowed;

/// A process may have some 65,000 mappings, and each segment takes two. Beyond this many the data is
/// copied.
const MAX_BORROWED: usize = 4096;

static BORROWED: AtomicUsize = AtomicUsize::new(0);

/// A segment that is counted as long as anything refers to it.
struct Counted(Borrowed);

impl Counted {
    fn map(fd: &OwnedFd) -> Result<Self> {
        let borrowed = Borrowed::map(fd)?;
        BORROWED.fetch_add(1, Ordering::Relaxed);
        Ok(Self(borrowed))
    }

    fn slice(&self, range: &Range<usize>) -> &[u8] {
        assert!(range.start <= range.end && range.end <= self.0.len());
        // SAFETY: within the mapping, which lives as long as the borrow of `self`. It is private, and
        // its owner does not write to it meanwhile; one that did would make for wrong data.
        unsafe { std::slice::from_raw_parts(self.0.as_ptr().add(range.start), range.len()) }
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        BORROWED.fetch_sub(1, Ordering::Relaxed);
    }
}

/// Bytes that Python can look at.
#[pyclass(module = "deadpool._core", name = "_View", frozen)]
pub(super) struct View(Source);

enum Source {
    Own(Vec<u8>),
    /// A pickle, which is only read.
    Pickle(Arc<Counted>, Range<usize>),
    /// A buffer, which may be written to.
    Buffer(Arc<Counted>, Range<usize>),
}

impl View {
    /// A view that owns its bytes, which are only read.
    pub(super) fn of_bytes(bytes: Vec<u8>) -> Self {
        Self(Source::Own(bytes))
    }

    pub(super) fn as_slice(&self) -> &[u8] {
        match &self.0 {
            Source::Own(bytes) => bytes,
            Source::Pickle(segment, range) | Source::Buffer(segment, range) => segment.slice(range),
        }
    }
}

#[pymethods]
impl View {
    #[allow(clippy::needless_pass_by_value, reason = "the receiver that the slot asks for")]
    unsafe fn __getbuffer__(
        slf: Bound<'_, Self>,
        view: *mut ffi::Py_buffer,
        flags: c_int,
    ) -> PyResult<()> {
        let this = slf.get();
        let bytes = this.as_slice();
        let length = ffi::Py_ssize_t::try_from(bytes.len())
            .map_err(|_| PyBufferError::new_err("the data is too large"))?;
        let start = bytes.as_ptr().cast_mut().cast::<c_void>();
        let readonly = c_int::from(!matches!(this.0, Source::Buffer(..)));
        // SAFETY: the view is the interpreter's to fill; it takes a reference to this object, whose
        // bytes never move. What may be written to is a mapping of this process's alone, of which
        // Rust keeps no reference.
        let status =
            unsafe { ffi::PyBuffer_FillInfo(view, slf.as_ptr(), start, length, readonly, flags) };
        if status == 0 { Ok(()) } else { Err(PyErr::fetch(slf.py())) }
    }
}

/// What is raised in place of data that could not be received.
pub(in crate::python) fn lost(shortage: Shortage) -> PyErr {
    match shortage {
        Shortage::Descriptors => {
            let what = "too many files are open to receive the data of a task";
            PyOSError::new_err((Errno::EMFILE as i32, what))
        }
        Shortage::Memory => {
            PyMemoryError::new_err("there is no memory to receive the data of a task")
        }
    }
}

/// The pickle of a payload that came with `attachment`, and its out-of-band buffers.
pub(super) fn open<'py>(
    py: Python<'py>,
    body: &[u8],
    attachment: Attachment,
) -> PyResult<(View, Bound<'py, PyList>)> {
    let fd = match attachment {
        Attachment::Received(fd) => fd,
        Attachment::Lost(shortage) => return Err(lost(shortage)),
        Attachment::Own(_) => return Err(lost(Shortage::Descriptors)),
    };
    let segment = Arc::new(Counted::map(&fd)?);
    let layout = Layout::read(body, segment.0.len())?;
    let copies = BORROWED.load(Ordering::Relaxed) > MAX_BORROWED;
    let pickle = if layout.pickle.is_empty() {
        Source::Own(fallible::copy_of(&body[..layout.inline])?)
    } else if copies {
        Source::Own(fallible::copy_of(segment.slice(&layout.pickle))?)
    } else {
        Source::Pickle(Arc::clone(&segment), layout.pickle)
    };
    let buffers = PyList::empty(py);
    for range in layout.buffers {
        if copies {
            let bytes = segment.slice(&range);
            buffers.append(PyByteArray::new_with(py, bytes.len(), |copy| {
                copy.copy_from_slice(bytes);
                Ok(())
            })?)?;
        } else {
            buffers.append(View(Source::Buffer(Arc::clone(&segment), range)))?;
        }
    }
    Ok((View(pickle), buffers))
}
