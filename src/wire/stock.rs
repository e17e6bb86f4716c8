//! Segments to be used again: filling memory whose pages are there is several times faster than
//! filling fresh memory.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};

use crate::wire::segment::Segment;

/// How many segments there may be at a time, those of waiting tasks and results included: each has
/// an fd. What finds no room travels in the frame.
const MAX_SEGMENTS: usize = 64;

/// How many of those may wait for their borrowers.
const MAX_LENT: usize = 16;

/// How much memory is kept for later.
const MAX_FREE_BYTES: usize = 192 << 20;

/// Segments smaller than this are not made: many sizes fit into one then.
const MIN_BYTES: usize = 1 << 20;

/// The segments of one process for one pool.
#[derive(Debug, Default)]
pub struct Stock {
    shelves: Mutex<Shelves>,
    made: AtomicUsize,
}

#[derive(Debug, Default)]
struct Shelves {
    free: Vec<Segment>,
    /// Given back by the sender and still borrowed, the oldest first.
    lent: VecDeque<Segment>,
    /// Nothing is kept any more.
    is_closed: bool,
}

impl Stock {
    /// A segment for at least `len` bytes; `None` if there can't be another now.
    pub fn take(&self, len: usize) -> Option<Segment> {
        let mut shelves = self.shelves();
        self.sort(&mut shelves);
        let fitting = |segment: &Segment| {
            let capacity = segment.capacity();
            // One that is much too large would keep its memory from those who need it.
            capacity >= len && capacity / 4 <= len.max(MIN_BYTES)
        };
        let best = (0..shelves.free.len())
            .filter(|&index| fitting(&shelves.free[index]))
            .min_by_key(|&index| shelves.free[index].capacity());
        if let Some(index) = best {
            return Some(shelves.free.swap_remove(index));
        }
        drop(shelves);
        if self.made.fetch_add(1, Ordering::Relaxed) < MAX_SEGMENTS
            && let Ok(segment) = Segment::create(len.max(MIN_BYTES))
        {
            return Some(segment);
        }
        self.made.fetch_sub(1, Ordering::Relaxed);
        None
    }

    /// Takes a segment back, to be used again when its borrowers have let go.
    pub fn give_back(&self, segment: Segment) {
        let mut shelves = self.shelves();
        shelves.lent.push_back(segment);
        self.sort(&mut shelves);
        let keep = if shelves.is_closed { 0 } else { MAX_LENT };
        let surplus = shelves.lent.len().saturating_sub(keep);
        let gone: Vec<Segment> = shelves.lent.drain(..surplus).collect();
        drop(shelves);
        self.forget(gone);
    }

    /// Gives up what is kept for later. Says whether there was anything.
    pub fn clear(&self) -> bool {
        let mut shelves = self.shelves();
        let free = std::mem::take(&mut shelves.free);
        drop(shelves);
        let any = !free.is_empty();
        self.forget(free);
        any
    }

    /// Gives up everything, also what comes back later: nothing will be sent any more.
    pub fn close(&self) {
        let mut shelves = self.shelves();
        shelves.is_closed = true;
        let gone = shelves.lent.drain(..).collect();
        drop(shelves);
        self.forget(gone);
        self.clear();
    }

    /// Moves what has come back to what is free, and keeps that within bounds.
    fn sort(&self, shelves: &mut Shelves) {
        let mut kept: usize = shelves.free.iter().map(Segment::capacity).sum();
        let mut gone = Vec::new();
        for segment in std::mem::take(&mut shelves.lent) {
            if !segment.is_free() {
                shelves.lent.push_back(segment);
            } else if !shelves.is_closed && kept + segment.capacity() <= MAX_FREE_BYTES {
                kept += segment.capacity();
                shelves.free.push(segment);
            } else {
                gone.push(segment);
            }
        }
        self.forget(gone);
    }

    fn forget(&self, segments: Vec<Segment>) {
        self.made.fetch_sub(segments.len(), Ordering::Relaxed);
        drop(segments);
    }

    fn shelves(&self) -> MutexGuard<'_, Shelves> {
        self.shelves.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use std::os::fd::AsFd;

    use super::*;
    use crate::wire::segment::Borrowed;

    /// Marks a segment so that it is known again.
    fn mark(segment: &mut Segment, byte: u8) {
        segment.bytes_mut()[0] = byte;
    }

    #[test]
    fn what_comes_back_is_used_again() {
        let stock = Stock::default();
        let mut segment = stock.take(5 << 20).unwrap();
        mark(&mut segment, 7);
        stock.give_back(segment);
        assert_eq!(stock.take(4 << 20).unwrap().bytes_mut()[0], 7);
    }

    #[test]
    fn what_is_borrowed_is_not_used_again_before_it_comes_back() {
        let stock = Stock::default();
        let mut segment = stock.take(100).unwrap();
        mark(&mut segment, 7);
        segment.lend();
        let fd = segment.as_fd().try_clone_to_owned().unwrap();
        let borrowed = Borrowed::map(&fd).unwrap();
        stock.give_back(segment);
        let mut other = stock.take(100).unwrap();
        assert_eq!(other.bytes_mut()[0], 0);
        drop(borrowed);
        assert_eq!(stock.take(100).unwrap().bytes_mut()[0], 7);
    }

    #[test]
    fn one_that_is_much_too_large_is_kept() {
        let stock = Stock::default();
        let mut large = stock.take(64 << 20).unwrap();
        mark(&mut large, 7);
        stock.give_back(large);
        assert_eq!(stock.take(100).unwrap().capacity(), MIN_BYTES);
        assert!(stock.clear());
        assert!(!stock.clear());
    }

    #[test]
    fn nothing_is_kept_once_it_is_closed() {
        let stock = Stock::default();
        let (one, other) = (stock.take(1).unwrap(), stock.take(1).unwrap());
        one.lend();
        stock.give_back(one);
        stock.close();
        stock.give_back(other);
        assert_eq!(stock.made.load(Ordering::Relaxed), 0);
    }

    #[test]
    fn there_are_never_too_many() {
        let stock = Stock::default();
        let taken: Vec<_> = (0..MAX_SEGMENTS).map(|_| stock.take(1).unwrap()).collect();
        assert!(stock.take(1).is_none());
        for segment in taken {
            // Nobody ever gives these back.
            segment.lend();
            stock.give_back(segment);
        }
        assert_eq!(stock.shelves().lent.len(), MAX_LENT);
        assert!(stock.take(1).is_some());
    }
}
