//! Pickles and buffers that are large enough for a segment of shared memory.

use std::sync::Arc;

use pyo3::buffer::PyUntypedBuffer;
use pyo3::prelude::*;

use crate::wire::payload::{Attachment, Layout, Loan, Payload};
use crate::wire::stock::Stock;

/// While more is copied, other threads may have the GIL.
const DETACH_FROM_BYTES: usize = 1 << 20;
/// Room for what a pickler writes after a large piece.
const SLACK_BYTES: usize = 64 << 10;
/// A pickle in a segment.
pub(super) struct Large {
    loan: Loan,
    used: usize,
}

impl Large {
    /// Copies what is there into a segment that has room for `more` bytes.
    pub(super) fn begin(stock: &Arc<Stock>, bytes: &[u8], more: usize) -> Option<Self> {
        let mut large =
            Self { loan: Loan::take(stock, bytes.len() + more + SLACK_BYTES)?, used: 0 };
        large.append(bytes);
        Some(large)
    }

    pub(super) fn bytes(&mut self) -> &[u8] {
        &self.loan.bytes_mut()[..self.used]
    }

    /// Makes room for `more` bytes. Says whether there is any.
    pub(super) fn make_room(&mut self, more: usize) -> bool {
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

    pub(super) fn append(&mut self, piece: &[u8]) {
        self.loan.bytes_mut()[self.used..][..piece.len()].copy_from_slice(piece);
        self.used += piece.len();
    }
}

/// Makes a payload of a pickle and its buffers. `None` if there is no segment to be had.
pub(super) fn attach(
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
pub(super) fn bytes_of(buffer: &PyUntypedBuffer) -> &[u8] {
    let length = buffer.len_bytes();
    if length == 0 {
        return &[];
    }
    // SAFETY: the exporter vouches for so many bytes in one piece while `buffer` lives. Another
    // thread of the task that writes to them meanwhile gets some of them sent, as with any copy.
    unsafe { std::slice::from_raw_parts(buffer.buf_ptr().cast::<u8>(), length) }
}
