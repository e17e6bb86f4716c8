//! What comes from a worker, as bytes that mean no good.
//!
//! The first byte says how the rest is cut into reads. Whatever it is: no panic, no more memory than
//! was sent but for a constant, and the same frames however the stream is cut.

#![no_main]

use _core::wire::frame::{Decoder, Header, parse};
use libfuzzer_sys::fuzz_target;

type Frames = Vec<(Header, Vec<u8>)>;

fn decode(bytes: &[u8], cut: usize) -> (Frames, bool) {
    let mut decoder = Decoder::default();
    let mut frames = Vec::new();
    for read in bytes.chunks(cut.max(1)) {
        let fed = decoder.feed(read, |header, body| {
            let body = body.unwrap();
            assert_eq!(header.len, body.len() as u64);
            frames.push((header, body));
        });
        if fed.is_err() {
            return (frames, false);
        }
    }
    (frames, true)
}

fuzz_target!(|data: &[u8]| {
    let Some((&cut, bytes)) = data.split_first() else { return };
    let (whole, fine) = decode(bytes, bytes.len());
    assert_eq!(decode(bytes, usize::from(cut)), (whole.clone(), fine));
    let sent: usize = whole.iter().map(|(_, body)| body.len()).sum();
    assert!(sent <= bytes.len());
    if let Ok((header, body)) = parse(bytes) {
        // What lies in a ring is one frame, and means there what it means in the stream.
        assert_eq!(whole, [(header, body.to_vec())]);
    }
});
