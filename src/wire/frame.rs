//! What passes between the supervisor and a worker, as bytes.
//!
//! A frame is a header of 16 bytes and a body. The same frames travel on the socket and in the
//! ring of the shared page. The peer is not trusted with the parent's memory: a body is only made
//! room for as it arrives, never by what its header claims, so a frame that lies costs at most
//! [`GROWTH_BYTES`] more than twice what was really sent.

use crate::error::{Error, Result};
use crate::fallible;

/// Bytes of a header on the wire.
pub const HEADER_BYTES: usize = 16;

/// By how much a body may grow at once before its bytes have come.
pub const GROWTH_BYTES: usize = 1 << 20;

const MAGIC: u16 = 0xDEAD;

/// What a frame is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Kind {
    /// Parent to worker: a pickled call.
    Task = 1,
    /// Parent to worker: pickled changes of the environment, before the first task.
    Environ = 2,
    /// Parent to worker: finish and go.
    Retire = 3,
    /// Worker to parent: ready for tasks.
    Ready = 16,
    /// Worker to parent: the initializer raised; the body is the pickled exception.
    InitializerFailed = 17,
    /// Worker to parent: there are results in the ring.
    Doorbell = 18,
    /// Worker to parent: a task was found taken back.
    Skipped = 19,
    /// Worker to parent: a task returned; the body is its pickled value.
    Returned = 20,
    /// Worker to parent: a task raised; the body is the pickled exception.
    Raised = 21,
}

impl Kind {
    fn from_byte(byte: u8) -> Option<Self> {
        Some(match byte {
            1 => Self::Task,
            2 => Self::Environ,
            3 => Self::Retire,
            16 => Self::Ready,
            17 => Self::InitializerFailed,
            18 => Self::Doorbell,
            19 => Self::Skipped,
            20 => Self::Returned,
            21 => Self::Raised,
            _ => return None,
        })
    }
}

/// The fixed part of a frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Header {
    /// What it is.
    pub kind: Kind,
    /// Whether the worker asks to be replaced.
    pub recycle: bool,
    /// Whether the fd of a segment came with its first byte; see [`crate::wire::payload`].
    pub attached: bool,
    /// The number of the task on its worker, 0 where there is none.
    pub seq: u32,
    /// Bytes of the body.
    pub len: u64,
}

impl Header {
    /// A header with neither task nor body.
    pub const fn bare(kind: Kind) -> Self {
        Self { kind, recycle: false, attached: false, seq: 0, len: 0 }
    }

    /// The bytes on the wire.
    pub fn encode(&self) -> [u8; HEADER_BYTES] {
        let mut bytes = [0; HEADER_BYTES];
        bytes[0..2].copy_from_slice(&MAGIC.to_le_bytes());
        bytes[2] = self.kind as u8;
        bytes[3] = u8::from(self.recycle) | u8::from(self.attached) << 1;
        bytes[4..8].copy_from_slice(&self.seq.to_le_bytes());
        bytes[8..16].copy_from_slice(&self.len.to_le_bytes());
        bytes
    }

    /// Read the bytes of a header.
    ///
    /// # Errors
    ///
    /// [`Error::Protocol`] if they are none.
    pub fn decode(bytes: &[u8; HEADER_BYTES]) -> Result<Self> {
        let [m0, m1, kind, flags, s0, s1, s2, s3, len @ ..] = *bytes;
        if u16::from_le_bytes([m0, m1]) != MAGIC {
            return Err(Error::Protocol("it does not begin like one"));
        }
        let kind = Kind::from_byte(kind).ok_or(Error::Protocol("of an unknown kind"))?;
        if flags > 3 {
            return Err(Error::Protocol("with unknown flags"));
        }
        Ok(Self {
            kind,
            recycle: flags & 1 != 0,
            attached: flags & 2 != 0,
            seq: u32::from_le_bytes([s0, s1, s2, s3]),
            len: u64::from_le_bytes(len),
        })
    }
}

/// Split a whole frame, as it lies in the ring, into its parts.
///
/// # Errors
///
/// [`Error::Protocol`] if it is not exactly one frame.
pub fn parse(bytes: &[u8]) -> Result<(Header, &[u8])> {
    let (header, body) =
        bytes.split_first_chunk().ok_or(Error::Protocol("shorter than a header"))?;
    let header = Header::decode(header)?;
    if header.len != body.len() as u64 {
        return Err(Error::Protocol("of another length than it says"));
    }
    Ok((header, body))
}

/// Cuts a stream of bytes into frames.
#[derive(Debug, Default)]
pub struct Decoder {
    head: Vec<u8>,
    body: Option<Body>,
}

/// A body that has not come whole.
#[derive(Debug)]
struct Body {
    header: Header,
    bytes: Vec<u8>,
    missing: usize,
    // There was no memory for it: the rest of it is let pass.
    is_lost: bool,
}

impl Decoder {
    /// Whether a body has not come whole.
    pub fn is_amid_body(&self) -> bool {
        self.body.is_some()
    }

    /// Take in `bytes` and hand each frame that is complete to `each`, with `None` for a body that
    /// there was no memory for.
    ///
    /// # Errors
    ///
    /// [`Error::Protocol`] at the first bytes that can't be a frame; the stream is lost then.
    pub fn feed(
        &mut self,
        mut bytes: &[u8],
        mut each: impl FnMut(Header, Option<Vec<u8>>),
    ) -> Result<()> {
        loop {
            if self.body.is_none() {
                let missing = HEADER_BYTES - self.head.len();
                let (now, rest) = bytes.split_at(missing.min(bytes.len()));
                self.head.extend_from_slice(now);
                bytes = rest;
                let Ok(head) = <&[u8; HEADER_BYTES]>::try_from(self.head.as_slice()) else {
                    return Ok(());
                };
                let header = Header::decode(head)?;
                self.head.clear();
                let missing =
                    usize::try_from(header.len).map_err(|_| Error::Protocol("too long"))?;
                self.body = Some(Body { header, bytes: Vec::new(), missing, is_lost: false });
            }
            let Some(mut body) = self.body.take() else { return Ok(()) };
            let (now, rest) = bytes.split_at(body.missing.min(bytes.len()));
            body.take_in(now);
            bytes = rest;
            if body.missing > 0 {
                self.body = Some(body);
                return Ok(());
            }
            each(body.header, (!body.is_lost).then_some(body.bytes));
        }
    }
}

impl Body {
    fn take_in(&mut self, now: &[u8]) {
        let len = self.bytes.len();
        if !self.is_lost && now.len() > self.bytes.capacity() - len {
            let more = self.missing.min(len.max(GROWTH_BYTES).max(now.len()));
            self.is_lost = fallible::reserve_exact(&mut self.bytes, more).is_err();
        }
        if self.is_lost {
            self.bytes = Vec::new();
        } else {
            self.bytes.extend_from_slice(now);
        }
        self.missing -= now.len();
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const KINDS: [Kind; 9] = [
        Kind::Task,
        Kind::Environ,
        Kind::Retire,
        Kind::Ready,
        Kind::InitializerFailed,
        Kind::Doorbell,
        Kind::Skipped,
        Kind::Returned,
        Kind::Raised,
    ];

    #[test]
    fn a_lying_length_reserves_little() {
        let header = Header { len: u64::MAX / 2, ..Header::bare(Kind::Returned) };
        let mut decoder = Decoder::default();
        decoder.feed(&header.encode(), |_, _| panic!("nothing is complete")).unwrap();
        decoder.feed(&[7; 100], |_, _| panic!("nothing is complete")).unwrap();
        let body = decoder.body.unwrap();
        assert!(body.bytes.capacity() <= GROWTH_BYTES);
    }

    proptest! {
        /// Frames survive the wire however the stream is cut.
        #[test]
        fn frames_survive_any_cut(
            frames in prop::collection::vec(
                (0..KINDS.len(), any::<(bool, bool)>(), any::<u32>(), prop::collection::vec(any::<u8>(), 0..200)), 0..20),
            cuts in prop::collection::vec(1usize..50, 1..50),
        ) {
            let mut stream = Vec::new();
            let mut sent = Vec::new();
            for (kind, (recycle, attached), seq, body) in frames {
                let len = body.len() as u64;
                let header = Header { kind: KINDS[kind], recycle, attached, seq, len };
                stream.extend_from_slice(&header.encode());
                stream.extend_from_slice(&body);
                sent.push((header, body));
            }
            let mut decoder = Decoder::default();
            let mut got = Vec::new();
            let mut rest = stream.as_slice();
            for cut in cuts.iter().cycle() {
                let (now, later) = rest.split_at((*cut).min(rest.len()));
                decoder.feed(now, |header, body| got.push((header, body.unwrap()))).unwrap();
                rest = later;
                if rest.is_empty() { break }
            }
            prop_assert_eq!(got, sent);
        }

        /// No bytes whatever make it panic or take more memory than was sent, but for a constant.
        #[test]
        fn garbage_is_an_error_or_nothing(bytes in prop::collection::vec(any::<u8>(), 0..400)) {
            let mut decoder = Decoder::default();
            let _ = decoder.feed(&bytes, |_, body| assert!(body.unwrap().len() <= 400));
            let _ = parse(&bytes);
        }
    }
}
