//! Frames on their way to a worker.
//!
//! Small frames are copied together, so that a batch of tasks is one system call; a large payload is
//! written from where it lies, or goes as a segment whose fd travels with the first byte of its frame.
//! The worker may be slow or stopped: what it does not take stays here.

use std::collections::VecDeque;
use std::io::IoSlice;
use std::os::fd::BorrowedFd;
use std::sync::Arc;

use crate::error::Result;
use crate::sys::socket;
use crate::wire::frame::{HEADER_BYTES, Header};
use crate::wire::payload::{Loan, Payload};

/// Payloads up to this size are copied.
const COPY_BYTES: usize = 16 * 1024;

/// Pieces written by one call.
const PIECES: usize = 16;

/// A queue of bytes.
#[derive(Debug, Default)]
pub(super) struct Outbox {
    pieces: VecDeque<Piece>,
    // Bytes of the first piece that are written already.
    written: usize,
}

#[derive(Debug)]
enum Piece {
    Own(Vec<u8>),
    Shared(Arc<Payload>),
    /// A whole frame, and the payload whose segment goes with its first byte.
    Attached(Vec<u8>, Arc<Payload>),
}

impl Piece {
    fn bytes(&self) -> &[u8] {
        match self {
            Self::Own(bytes) | Self::Attached(bytes, _) => bytes,
            Self::Shared(payload) => &payload.body,
        }
    }

    fn loan(&self) -> Option<&Loan> {
        match self {
            Self::Attached(_, payload) => payload.loan(),
            Self::Own(_) | Self::Shared(_) => None,
        }
    }
}

impl Outbox {
    /// Whether everything was written.
    pub fn is_empty(&self) -> bool {
        self.pieces.is_empty()
    }

    /// Append a frame whose body is `payload`.
    pub fn push(&mut self, header: Header, payload: &Arc<Payload>) {
        let body = &payload.body;
        if header.attached {
            let frame = [&header.encode()[..], body].concat();
            return self.pieces.push_back(Piece::Attached(frame, Arc::clone(payload)));
        }
        let own = self.tail(HEADER_BYTES + body.len().min(COPY_BYTES));
        own.extend_from_slice(&header.encode());
        if body.len() <= COPY_BYTES {
            own.extend_from_slice(body);
        } else {
            self.pieces.push_back(Piece::Shared(Arc::clone(payload)));
        }
    }

    /// Append a frame without a body.
    pub fn push_bare(&mut self, header: Header) {
        self.tail(HEADER_BYTES).extend_from_slice(&header.encode());
    }

    fn tail(&mut self, room: usize) -> &mut Vec<u8> {
        let fits =
            matches!(self.pieces.back(), Some(Piece::Own(bytes)) if bytes.len() < COPY_BYTES);
        if !fits {
            self.pieces.push_back(Piece::Own(Vec::with_capacity(room.max(256))));
        }
        match self.pieces.back_mut() {
            Some(Piece::Own(bytes)) => bytes,
            _ => unreachable!("a piece of our own was just made sure of"),
        }
    }

    /// Write as much as the socket takes. Returns whether all was written.
    ///
    /// # Errors
    ///
    /// If the worker closed its end, say.
    pub fn flush(&mut self, socket: BorrowedFd<'_>) -> Result<bool> {
        while let Some(first) = self.pieces.front() {
            if self.written == 0
                && let Some(loan) = first.loan()
            {
                match loan.send(socket, first.bytes())? {
                    Some(sent) => self.advance(sent),
                    None => return Ok(false),
                }
                continue;
            }
            let mut slices = [IoSlice::new(&[]); PIECES];
            let mut count = 0;
            for (slice, piece) in slices.iter_mut().zip(&self.pieces) {
                if count > 0 && piece.loan().is_some() {
                    break; // Its first byte goes in a message of its own.
                }
                let skip = if count == 0 { self.written } else { 0 };
                *slice = IoSlice::new(&piece.bytes()[skip..]);
                count += 1;
            }
            match socket::send(socket, &slices[..count])? {
                Some(sent) => self.advance(sent),
                None => return Ok(false),
            }
        }
        Ok(true)
    }

    fn advance(&mut self, sent: usize) {
        self.written += sent;
        while let Some(piece) = self.pieces.front() {
            let len = piece.bytes().len();
            if self.written < len {
                return;
            }
            self.written -= len;
            self.pieces.pop_front();
        }
    }
}

#[cfg(test)]
mod tests {
    use std::io::Read;
    use std::os::fd::AsFd;
    use std::os::unix::net::UnixStream;
    use std::thread;

    use super::*;
    use crate::wire::frame::{Decoder, Kind};

    #[test]
    fn everything_arrives_in_order_however_slowly_it_is_read() {
        let (ours, mut theirs) = UnixStream::pair().unwrap();
        ours.set_nonblocking(true).unwrap();
        let mut outbox = Outbox::default();
        let sizes = [0, 10, 300_000, 5, COPY_BYTES, COPY_BYTES + 1, 40, 1_000_000];
        for (seq, size) in (0u32..).zip(sizes) {
            let payload = Arc::new(Payload::from(vec![seq.to_le_bytes()[0]; size]));
            outbox.push(Header { seq, len: size as u64, ..Header::bare(Kind::Task) }, &payload);
        }
        let reader = thread::spawn(move || {
            let (mut decoder, mut buffer, mut got) = (Decoder::default(), [0; 7001], Vec::new());
            while got.len() < sizes.len() {
                let count = theirs.read(&mut buffer).unwrap();
                decoder
                    .feed(&buffer[..count], |header, body| got.push((header.seq, body.unwrap())))
                    .unwrap();
            }
            got
        });
        while !outbox.flush(ours.as_fd()).unwrap() {
            thread::yield_now();
        }
        for ((seq, body), size) in reader.join().unwrap().into_iter().zip(sizes) {
            assert_eq!(body, vec![seq.to_le_bytes()[0]; size]);
        }
    }
}
