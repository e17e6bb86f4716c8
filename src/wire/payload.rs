//! Pickled data on its way between processes.
//!
//! Nothing in the parent but the completer ever looks inside. Small data is the body of a frame and
//! nothing else. Large data lies in a [segment](crate::wire::segment), whose fd travels with the first
//! byte of the frame: the out-of-band buffers of the pickle, and the pickle itself if it is large.
//! The body ends with the *layout* of the segment then:
//!
//! ```text
//!   pickle, if it is small │ bytes of the pickle in the segment │ bytes of each buffer │ how many
//!                          │ u64                                │ u64 …                │ u64
//! ```
//!
//! In the segment the pickle comes first, and each buffer begins at a multiple of [`ALIGNMENT`].

use std::collections::VecDeque;
use std::ops::Range;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::Arc;

use crate::error::{Error, Result};
use crate::sys::socket::{self, Fds};
use crate::wire::segment::Segment;
use crate::wire::stock::Stock;

/// What every buffer in a segment is aligned to: as much as vector instructions like best.
pub const ALIGNMENT: usize = 64;

const WORD: usize = size_of::<u64>();

/// One pickled object.
#[derive(Debug, Default)]
pub struct Payload {
    /// The body of the frame: the pickle itself, or what [`layout`](Self::layout) makes of it.
    pub body: Vec<u8>,
    /// What travels beside the body.
    pub attachment: Option<Attachment>,
}

/// Large data of a payload.
#[derive(Debug)]
pub enum Attachment {
    /// Made here.
    Own(Loan),
    /// Come from another process.
    Received(OwnedFd),
    /// Sent by another process, and lost here.
    Lost(Shortage),
}

/// What this process had too little of to receive a payload.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Shortage {
    /// Room for another fd.
    Descriptors,
    /// Memory.
    Memory,
}

/// A segment to fill and to send; it goes back to where it is from.
#[derive(Debug)]
pub struct Loan {
    // There until the end.
    segment: Option<Segment>,
    stock: Arc<Stock>,
}

impl Loan {
    /// A segment for at least `len` bytes; `None` if there can't be another now.
    pub fn take(stock: &Arc<Stock>, len: usize) -> Option<Self> {
        let segment = stock.take(len)?;
        Some(Self { segment: Some(segment), stock: Arc::clone(stock) })
    }

    /// Where it is from.
    pub fn stock(&self) -> &Arc<Stock> {
        &self.stock
    }

    /// The data, to be filled before it is sent.
    pub fn bytes_mut(&mut self) -> &mut [u8] {
        self.segment.as_mut().map_or(&mut [], Segment::bytes_mut)
    }

    /// Sends as much of a frame as fits, with the fd for its borrower. Says how many bytes that was.
    ///
    /// # Errors
    ///
    /// If the peer is gone, say.
    pub fn send(&self, socket: BorrowedFd<'_>, frame: &[u8]) -> Result<Option<usize>> {
        let Some(segment) = &self.segment else { return Ok(None) };
        // Before it can be mapped.
        segment.lend();
        let sent = socket::send_with_fds(socket, frame, &[segment.as_fd()])?;
        if sent.is_none() {
            segment.reclaim();
        }
        Ok(sent)
    }
}

impl Drop for Loan {
    fn drop(&mut self) {
        if let Some(segment) = self.segment.take() {
            self.stock.give_back(segment);
        }
    }
}

impl From<Vec<u8>> for Payload {
    fn from(body: Vec<u8>) -> Self {
        Self { body, attachment: None }
    }
}

/// What lies where.
#[derive(Debug, PartialEq, Eq)]
pub struct Layout {
    /// The pickle in the body.
    pub inline: usize,
    /// The pickle in the segment, empty if it is in the body.
    pub pickle: Range<usize>,
    /// The buffers in the segment.
    pub buffers: Vec<Range<usize>>,
}

impl Layout {
    /// The places of a pickle of `pickle` bytes and of buffers of so many bytes in a segment.
    ///
    /// `None` if they are more than there can be.
    pub fn plan(pickle: usize, buffers: &[usize]) -> Option<Self> {
        let mut end = pickle;
        let mut places = Vec::with_capacity(buffers.len());
        for &len in buffers {
            let start = end.checked_next_multiple_of(ALIGNMENT)?;
            end = start.checked_add(len)?;
            places.push(start..end);
        }
        Some(Self { inline: 0, pickle: 0..pickle, buffers: places })
    }

    /// How many bytes of the segment are used.
    pub fn end(&self) -> usize {
        self.buffers.last().map_or(self.pickle.end, |last| last.end)
    }

    /// Appends what the other side needs to know to the body.
    pub fn write(&self, body: &mut Vec<u8>) {
        let lens = self.buffers.iter().map(Range::len);
        for number in std::iter::once(self.pickle.len()).chain(lens).chain([self.buffers.len()]) {
            body.extend_from_slice(&(number as u64).to_le_bytes());
        }
    }

    /// Reads what [`write`](Self::write) has written, of a segment with `capacity` bytes of data.
    ///
    /// # Errors
    ///
    /// [`Error::Protocol`] if it makes no sense.
    pub fn read(body: &[u8], capacity: usize) -> Result<Self> {
        const BAD: Error = Error::Protocol("with a layout that makes no sense");
        let number = |end: usize| {
            let start = end.checked_sub(WORD)?;
            let bytes = body.get(start..end)?.try_into().ok()?;
            usize::try_from(u64::from_le_bytes(bytes)).ok()
        };
        let parsed = || {
            let count_at = body.len().checked_sub(WORD)?;
            let count = number(body.len())?;
            let inline = count_at.checked_sub(count.checked_add(1)?.checked_mul(WORD)?)?;
            let numbers = (0..=count)
                .map(|index| number(inline + (index + 1) * WORD))
                .collect::<Option<Vec<usize>>>()?;
            let layout = Self::plan(numbers[0], &numbers[1..])?;
            (layout.end() <= capacity).then_some(Self { inline, ..layout })
        };
        parsed().ok_or(BAD)
    }
}

impl Payload {
    /// Bytes of the body on the wire.
    pub fn len(&self) -> usize {
        self.body.len()
    }

    /// Whether there is nothing in it.
    pub fn is_empty(&self) -> bool {
        self.body.is_empty()
    }

    /// Whether a part of it could not be received.
    pub fn is_lost(&self) -> bool {
        self.shortage().is_some()
    }

    /// Why a part of it could not be received, if one could not.
    pub fn shortage(&self) -> Option<Shortage> {
        match self.attachment {
            Some(Attachment::Lost(shortage)) => Some(shortage),
            _ => None,
        }
    }

    /// A segment of this process's that goes with it.
    pub fn loan(&self) -> Option<&Loan> {
        match &self.attachment {
            Some(Attachment::Own(loan)) => Some(loan),
            _ => None,
        }
    }

    /// What a frame has brought: its body, unless that was lost, and what came with its first byte.
    ///
    /// # Errors
    ///
    /// [`Error::Protocol`] if something should have come and nothing did.
    pub fn received(
        body: Option<Vec<u8>>,
        attached: bool,
        arrivals: &mut Arrivals,
    ) -> Result<Self> {
        let attachment = if attached { Some(arrivals.next()?) } else { None };
        Ok(match body {
            Some(body) => Self { body, attachment },
            None => Self { body: Vec::new(), attachment: Some(Attachment::Lost(Shortage::Memory)) },
        })
    }
}

/// Fds that have come and whose frames are not complete yet.
#[derive(Debug, Default)]
pub struct Arrivals(VecDeque<Attachment>);

impl Arrivals {
    /// As many as can be on their way together with one read of the socket.
    const MAX: usize = 64;

    /// Takes in what came with bytes that are about to be decoded.
    ///
    /// # Errors
    ///
    /// [`Error::Protocol`] if more come than there are frames for.
    pub fn add(&mut self, fds: Fds) -> Result<()> {
        match fds {
            Fds::None => {}
            Fds::One(fd) => self.0.push_back(Attachment::Received(fd)),
            Fds::Lost => self.0.push_back(Attachment::Lost(Shortage::Descriptors)),
        }
        if self.0.len() > Self::MAX {
            Err(Error::Protocol("with fds that nobody wants"))
        } else {
            Ok(())
        }
    }

    fn next(&mut self) -> Result<Attachment> {
        self.0.pop_front().ok_or(Error::Protocol("without the fd that belongs to it"))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn buffers_are_aligned_and_apart() {
        let layout = Layout::plan(100, &[1, 0, 64]).unwrap();
        assert_eq!(layout.pickle, 0..100);
        assert_eq!(layout.buffers, [128..129, 192..192, 192..256]);
        assert_eq!(layout.end(), 256);
        assert_eq!(Layout::plan(usize::MAX, &[1]), None);
    }

    proptest! {
        #[test]
        fn a_layout_survives_the_wire(
            inline in prop::collection::vec(any::<u8>(), 0..50),
            pickle in 0_usize..1000,
            buffers in prop::collection::vec(0_usize..1000, 0..6),
        ) {
            let layout = Layout { inline: inline.len(), ..Layout::plan(pickle, &buffers).unwrap() };
            let mut body = inline;
            layout.write(&mut body);
            prop_assert_eq!(Layout::read(&body, layout.end()).unwrap(), layout);
        }

        /// Whatever the other side says, nothing outside of the segment is ever looked at.
        #[test]
        fn garbage_is_refused_or_within_bounds(
            mut body in prop::collection::vec(any::<u8>(), 0..60),
            small in prop::collection::vec(0_u64..4, 0..4),
            capacity in 0_usize..1000,
        ) {
            for number in small {
                body.extend_from_slice(&number.to_le_bytes());
            }
            if let Ok(layout) = Layout::read(&body, capacity) {
                prop_assert!(layout.inline <= body.len());
                prop_assert!(layout.pickle.end <= capacity && layout.end() <= capacity);
                prop_assert!(layout.buffers.iter().all(|buffer| buffer.end <= capacity));
            }
        }
    }
}
