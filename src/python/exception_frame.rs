//! The bytes of an exception between a worker and the parent.
//!
//! An encoded exception is `kind: u8, text length: u64 little-endian, text, rest`. The text is the
//! remote traceback; the rest is a pickle, or the message of an exception that can't be pickled.
//! The traceback stands outside of the pickle, so that it arrives even where unpickling fails.

use crate::error::Result;
use crate::fallible;
use crate::wire::payload::Payload;

pub(super) const PICKLED: u8 = 0;
pub(super) const UNPICKLABLE: u8 = 1;

pub(super) fn frame(kind: u8, text: &str, rest: &[u8]) -> Result<Payload> {
    let mut body = Vec::new();
    fallible::reserve_exact(&mut body, 9 + text.len() + rest.len())?;
    body.push(kind);
    body.extend_from_slice(&(text.len() as u64).to_le_bytes());
    body.extend_from_slice(text.as_bytes());
    body.extend_from_slice(rest);
    Ok(body.into())
}

pub(super) fn unframe(body: &[u8]) -> Option<(u8, &str, &[u8])> {
    let (&kind, body) = body.split_first()?;
    let (length, body) = body.split_first_chunk::<8>()?;
    let length = usize::try_from(u64::from_le_bytes(*length)).ok()?;
    let (text, rest) = body.split_at_checked(length)?;
    Some((kind, std::str::from_utf8(text).ok()?, rest))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_encoded_exception_is_read_back() {
        let payload = frame(PICKLED, "Traceback", b"rest").unwrap();
        assert_eq!(unframe(&payload.body), Some((PICKLED, "Traceback", &b"rest"[..])));
    }

    #[test]
    fn anything_else_is_refused() {
        let good = frame(PICKLED, "Traceback", b"").unwrap().body;
        for end in 0..good.len() {
            assert_eq!(unframe(&good[..end]), None);
        }
        assert_eq!(unframe(&[0xff; 64]), None);
    }
}
