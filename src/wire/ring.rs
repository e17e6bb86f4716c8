//! A queue of byte records in shared memory: a worker pushes, the supervisor drains.
//!
//! What was pushed stays when the worker dies, and no copy goes through the kernel. One producer,
//! one consumer. The cursors count words and never wrap in practice; a record is a word with its
//! length in bytes and then its bytes, filled up to a word.
//!
//! Each side keeps its own cursor in private memory and only publishes it. The consumer believes
//! nothing it reads: the producer's cursor and each length are checked against the ring before they
//! are used, and a record is copied out before anyone looks at it. All access is by atomic words,
//! so a producer that writes at the same time makes for a wrong record and nothing worse.
//!
//! # The doorbell
//!
//! The consumer sleeps in its poller, where a ring can't wake it. Before it does, it sets the
//! doorbell and looks at the ring once more; a producer that finds the doorbell set after a push
//! takes it and sends a wake-up by other means. Both touch it with a read-modify-write, and these
//! are totally ordered on one word: if the consumer's comes first, the producer finds the doorbell
//! set; if the producer's comes first, the consumer's acquires what the producer released with it,
//! the pushed cursor among it, and the second look finds the record. So nothing is ever slept over.

use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};

use crate::error::{Error, Result};

/// The ring's size.
pub const RING_BYTES: usize = 64 * 1024;

/// The longest record; a ring has room for several of that length.
pub const MAX_RECORD_BYTES: usize = 8 * 1024;

const WORD_BYTES: usize = size_of::<u64>();
const RING_WORDS: usize = RING_BYTES / WORD_BYTES;
const _: () = assert!(RING_WORDS.is_power_of_two());

/// The records' own memory.
pub(super) type Words = [AtomicU64; RING_WORDS];

/// Keeps what two processors write to apart, adjacent prefetched lines included.
#[repr(C, align(128))]
#[derive(Debug)]
struct Line<T>(T);

/// What the two sides tell each other.
#[repr(C)]
#[derive(Debug)]
pub(super) struct Cursors {
    /// Words ever pushed; written by the producer.
    tail: Line<AtomicU64>,
    /// Words ever drained; written by the consumer.
    head: Line<AtomicU64>,
    /// 1 while the consumer wants to be woken by a push.
    doorbell: Line<AtomicU32>,
}

/// A ring where it lies in shared memory.
#[derive(Clone, Copy, Debug)]
pub(super) struct Ring<'a> {
    pub(super) cursors: &'a Cursors,
    pub(super) words: &'a Words,
}

impl<'a> Ring<'a> {
    fn word(self, at: u64) -> &'a AtomicU64 {
        #[expect(clippy::cast_possible_truncation, reason = "reduced to the ring's size")]
        let index = at as usize % RING_WORDS;
        &self.words[index]
    }

    /// The producer's: takes the doorbell, if it is set.
    pub(super) fn take_doorbell(self) -> bool {
        // Anything but zero counts: one ring too many is better than none after a scribble.
        self.cursors.doorbell.0.swap(0, Ordering::AcqRel) != 0
    }
}

/// Words that a record of `len` bytes takes, its length included.
const fn words_for(len: usize) -> usize {
    1 + len.div_ceil(WORD_BYTES)
}

/// The pushing side's private state.
#[derive(Debug, Default)]
pub(super) struct Producer {
    tail: u64,
}

impl Producer {
    /// Pushes one record, the concatenation of `parts`; false if there is no room for it.
    pub(super) fn push(&mut self, ring: Ring<'_>, parts: &[&[u8]]) -> bool {
        let len = parts.iter().fold(0_usize, |sum, part| sum.saturating_add(part.len()));
        if len > MAX_RECORD_BYTES {
            return false;
        }
        // Acquires the consumer's reads of the words that are overwritten now.
        let head = ring.cursors.head.0.load(Ordering::Acquire);
        let used = self.tail.wrapping_sub(head);
        let needed = words_for(len) as u64;
        // A `used` beyond the ring means that a task scribbled over the cursor.
        if (RING_WORDS as u64).checked_sub(used).is_none_or(|free| free < needed) {
            return false;
        }
        ring.word(self.tail).store(len as u64, Ordering::Relaxed);
        write_words(ring, self.tail.wrapping_add(1), parts);
        self.tail = self.tail.wrapping_add(needed);
        // Releases the words to the consumer that acquires this.
        ring.cursors.tail.0.store(self.tail, Ordering::Release);
        true
    }
}

fn write_words(ring: Ring<'_>, mut at: u64, parts: &[&[u8]]) {
    let mut store = |bytes: [u8; WORD_BYTES]| {
        ring.word(at).store(u64::from_ne_bytes(bytes), Ordering::Relaxed);
        at = at.wrapping_add(1);
    };
    let mut staged = [0; WORD_BYTES];
    let mut filled = 0;
    for &part in parts {
        // What the part before left of a word is completed first.
        let missing = if filled == 0 { 0 } else { (WORD_BYTES - filled).min(part.len()) };
        let (completing, part) = part.split_at(missing);
        staged[filled..filled + missing].copy_from_slice(completing);
        filled += missing;
        if filled == WORD_BYTES {
            store(staged);
            filled = 0;
        }
        let mut whole = part.chunks_exact(WORD_BYTES);
        for chunk in whole.by_ref() {
            let mut word = [0; WORD_BYTES];
            word.copy_from_slice(chunk);
            store(word);
        }
        let rest = whole.remainder();
        if !rest.is_empty() {
            staged[..rest.len()].copy_from_slice(rest);
            filled = rest.len();
        }
    }
    if filled > 0 {
        staged[filled..].fill(0);
        store(staged);
    }
}

/// The draining side's private state.
#[derive(Debug, Default)]
pub(super) struct Consumer {
    head: u64,
    /// The record being looked at.
    record: Vec<u8>,
}

impl Consumer {
    /// Hands every record that is there now to `each`, in order; says how many there were.
    ///
    /// Bounded work, whatever the producer does: records that come meanwhile are left for later.
    pub(super) fn drain(&mut self, ring: Ring<'_>, mut each: impl FnMut(&[u8])) -> Result<usize> {
        let pushed = ring.cursors.tail.0.load(Ordering::Acquire).wrapping_sub(self.head);
        let mut left = usize::try_from(pushed)
            .ok()
            .filter(|&words| words <= RING_WORDS)
            .ok_or(Error::SharedMemory("the cursor of a result ring is out of range"))?;
        let mut count = 0;
        while left > 0 {
            let len = usize::try_from(ring.word(self.head).load(Ordering::Relaxed))
                .ok()
                .filter(|&len| len <= MAX_RECORD_BYTES && words_for(len) <= left)
                .ok_or(Error::SharedMemory("the length of a result is out of range"))?;
            self.copy_out(ring, len);
            left -= words_for(len);
            self.head = self.head.wrapping_add(words_for(len) as u64);
            // Releases the words to the producer only after they were read.
            ring.cursors.head.0.store(self.head, Ordering::Release);
            each(&self.record[..len]);
            count += 1;
        }
        Ok(count)
    }

    fn copy_out(&mut self, ring: Ring<'_>, len: usize) {
        let size = (words_for(len) - 1) * WORD_BYTES;
        if self.record.len() < size {
            self.record.resize(size, 0);
        }
        let mut at = self.head;
        for chunk in self.record[..size].chunks_exact_mut(WORD_BYTES) {
            at = at.wrapping_add(1);
            chunk.copy_from_slice(&ring.word(at).load(Ordering::Relaxed).to_ne_bytes());
        }
    }

    /// Asks for a wake-up by the next push; false, without asking, if there is something already.
    pub(super) fn arm_doorbell(&self, ring: Ring<'_>) -> bool {
        ring.cursors.doorbell.0.swap(1, Ordering::AcqRel);
        let is_empty = ring.cursors.tail.0.load(Ordering::Acquire) == self.head;
        if !is_empty {
            // Only spares the producer a wake-up; the doorbell is set again before any sleep.
            ring.cursors.doorbell.0.store(0, Ordering::Relaxed);
        }
        is_empty
    }
}

#[cfg(test)]
mod tests {
    use std::array;
    use std::thread;

    use proptest::prelude::*;

    use super::*;

    struct Memory {
        cursors: Cursors,
        words: Box<Words>,
    }

    impl Memory {
        fn new() -> Self {
            let line = || Line(AtomicU64::new(0));
            let cursors = Cursors { tail: line(), head: line(), doorbell: Line(AtomicU32::new(0)) };
            Self { cursors, words: Box::new(array::from_fn(|_| AtomicU64::new(0))) }
        }

        fn ring(&self) -> Ring<'_> {
            Ring { cursors: &self.cursors, words: &self.words }
        }
    }

    fn drain(consumer: &mut Consumer, memory: &Memory) -> Vec<Vec<u8>> {
        let mut records = Vec::new();
        consumer.drain(memory.ring(), |record| records.push(record.to_vec())).unwrap();
        records
    }

    #[test]
    fn room_runs_out_and_comes_back() {
        let memory = Memory::new();
        let (mut producer, mut consumer) = (Producer::default(), Consumer::default());
        let record = vec![7; MAX_RECORD_BYTES];
        assert!(!producer.push(memory.ring(), &[&record, b"x"]));
        for _ in 0..7 {
            assert!(producer.push(memory.ring(), &[&record]));
        }
        assert!(!producer.push(memory.ring(), &[&record]));
        assert_eq!(drain(&mut consumer, &memory).len(), 7);
        for _ in 0..100 {
            assert!(producer.push(memory.ring(), &[&record]));
            assert_eq!(drain(&mut consumer, &memory), std::slice::from_ref(&record));
        }
    }

    #[test]
    fn an_exactly_full_ring_works() {
        let memory = Memory::new();
        let (mut producer, mut consumer) = (Producer::default(), Consumer::default());
        for _ in 0..RING_WORDS {
            assert!(producer.push(memory.ring(), &[]));
        }
        assert!(!producer.push(memory.ring(), &[]));
        assert_eq!(drain(&mut consumer, &memory).len(), RING_WORDS);
    }

    #[test]
    fn a_scribbled_head_only_stops_the_producer() {
        let memory = Memory::new();
        memory.cursors.head.0.store(1 << 40, Ordering::Relaxed);
        assert!(!Producer::default().push(memory.ring(), &[b"x"]));
    }

    #[test]
    fn the_doorbell_is_taken_once() {
        let memory = Memory::new();
        let (mut producer, consumer) = (Producer::default(), Consumer::default());
        assert!(!memory.ring().take_doorbell());
        assert!(consumer.arm_doorbell(memory.ring()));
        assert!(producer.push(memory.ring(), &[b"x"]));
        assert!(memory.ring().take_doorbell());
        assert!(!memory.ring().take_doorbell());
        assert!(!consumer.arm_doorbell(memory.ring()));
        assert!(!memory.ring().take_doorbell());
    }

    #[test]
    fn nothing_is_slept_over() {
        const RECORDS: u64 = 20_000;
        let memory = Memory::new();
        let rung = AtomicU32::new(0);
        thread::scope(|scope| {
            scope.spawn(|| {
                let mut producer = Producer::default();
                for number in 0..RECORDS {
                    while !producer.push(memory.ring(), &[&number.to_ne_bytes()]) {
                        thread::yield_now();
                    }
                    if memory.ring().take_doorbell() {
                        rung.store(1, Ordering::Release);
                        crate::sys::futex::wake(&rung, 1);
                    }
                }
            });
            let mut consumer = Consumer::default();
            let mut next = 0;
            while next < RECORDS {
                let each = |record: &[u8]| {
                    assert_eq!(record, next.to_ne_bytes());
                    next += 1;
                };
                consumer.drain(memory.ring(), each).unwrap();
                if next < RECORDS && consumer.arm_doorbell(memory.ring()) {
                    // Would never return if a push could miss the doorbell.
                    while rung.swap(0, Ordering::Acquire) == 0 {
                        let _ = crate::sys::futex::wait(&rung, 0, None);
                    }
                }
            }
        });
    }

    proptest! {
        #[test]
        fn records_come_out_as_they_went_in(
            batches in prop::collection::vec(
                prop::collection::vec(prop::collection::vec(0..300_usize, 0..4), 0..40), 0..20),
        ) {
            let memory = Memory::new();
            let (mut producer, mut consumer) = (Producer::default(), Consumer::default());
            let source: Vec<u8> = (0..=255).cycle().take(300).collect();
            for batch in batches {
                let mut expected = Vec::new();
                for lens in batch {
                    let parts: Vec<&[u8]> = lens.iter().map(|&len| &source[..len]).collect();
                    if producer.push(memory.ring(), &parts) {
                        expected.push(parts.concat());
                    }
                }
                prop_assert_eq!(drain(&mut consumer, &memory), expected);
            }
        }

        #[test]
        fn whatever_is_in_there_is_survived(
            tail in prop_oneof![0..20_000_u64, any::<u64>()],
            words in prop::collection::vec(prop_oneof![0..10_000_u64, any::<u64>()], 1..200),
        ) {
            let memory = Memory::new();
            for (index, word) in memory.words.iter().enumerate() {
                word.store(words[index % words.len()], Ordering::Relaxed);
            }
            memory.cursors.tail.0.store(tail, Ordering::Relaxed);
            let mut consumer = Consumer::default();
            let mut bytes = 0;
            let result = consumer.drain(memory.ring(), |record| bytes += record.len());
            prop_assert!(bytes <= RING_BYTES);
            prop_assert!(result.is_ok() || matches!(result, Err(Error::SharedMemory(_))));
            prop_assert!(result.is_err() || tail <= RING_WORDS as u64);
        }
    }
}
