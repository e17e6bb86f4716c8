//! The page that a supervisor shares with one worker.
//!
//! ```text
//!   0        4 KiB                       68 KiB                     128 KiB
//!   ├─────────┼───────────────────────────┼──────────────────────────┤
//!   │ header  │ result ring               │ stack area               │
//! ```
//!
//! - The header holds the [claims](super::claim), the [ring](super::ring)'s cursors, and single
//!   words by which one side tells the other something.
//! - The ring carries short results, which so survive the worker's death.
//! - The stack area is where `faulthandler` leaves its dumps. It writes to the memfd itself, whose
//!   file offset stands there, so that it needs neither the GIL nor a working allocator.
//!
//! The worker can scribble over all of it. Every word is an atomic and every access goes through
//! one, so there is nothing that a scribble could make undefined; what is read is checked, or is
//! about that worker alone.

use std::mem::offset_of;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::Mutex;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::time::Duration;

use nix::fcntl::{FallocateFlags, fallocate};
use nix::unistd::{Whence, lseek};

use super::claim::{Claim, ClaimState, Revoke};
use super::ring::{Consumer, Cursors, Producer, RING_BYTES, Ring, Words};
use crate::error::Result;
use crate::sys::FailedTo;
use crate::sys::clock;
use crate::sys::mapping::Mapping;
use crate::sys::memfd::SharedMemory;
use crate::time::Time;

/// How many tasks may be with a worker at once: sequence numbers in use must lie this close.
pub const CLAIM_ENTRIES: u32 = 64;

const HEADER_BYTES: usize = 4 * 1024;
const STACK_BYTES: usize = 60 * 1024;

#[repr(C)]
struct Header {
    claims: [Claim; CLAIM_ENTRIES as usize],
    ring: Cursors,
    /// Written by the supervisor: the task to be interrupted, plus [`SOFT_INTERRUPT`]; zero for none,
    /// and once the worker has seen to it.
    soft_interrupt: AtomicU64,
    /// The rest is written by the worker. Its resident memory when it last looked, or zero.
    rss_bytes: AtomicU64,
    /// How many stack dumps it has finished.
    stack_dumps: AtomicU32,
    /// How many exit handlers user code has registered.
    exit_handlers: AtomicU32,
    /// 1 when the exit handlers have run.
    exit_done: AtomicU32,
}

/// Tells the interruption of task 0 from none.
const SOFT_INTERRUPT: u64 = 1 << 32;

/// The whole page; made of atomics alone.
#[repr(C)]
struct Shared {
    header: Header,
    padding: [AtomicU64; (HEADER_BYTES - size_of::<Header>()) / 8],
    ring: Words,
    stack: [AtomicU64; STACK_BYTES / 8],
}

const PAGE_BYTES: usize = size_of::<Shared>();
const STACK_OFFSET: usize = offset_of!(Shared, stack);
const _: () = assert!(PAGE_BYTES == HEADER_BYTES + RING_BYTES + STACK_BYTES);

/// A place in the page, as file operations take it.
#[expect(clippy::cast_possible_wrap, reason = "a page is far smaller than any off_t")]
const fn file_offset(bytes: usize) -> i64 {
    bytes as i64
}

/// A mapped page, the same for both sides.
#[derive(Debug)]
struct Page {
    fd: OwnedFd,
    mapping: Mapping,
}

impl Page {
    fn map(fd: OwnedFd) -> Result<Self> {
        let mapping = Mapping::shared(fd.as_fd(), PAGE_BYTES)?;
        Ok(Self { fd, mapping })
    }

    #[expect(clippy::cast_ptr_alignment, reason = "a mapping is aligned to a page of memory")]
    fn shared(&self) -> &Shared {
        // SAFETY: the mapping is as long as a `Shared`, aligned to a page, and lives as long as
        // `self`. A `Shared` is made of integer atomics, for which any bytes are valid and which
        // others may change at any time.
        unsafe { &*self.mapping.as_ptr().cast::<Shared>() }
    }

    fn header(&self) -> &Header {
        &self.shared().header
    }

    fn claim(&self, seq: u32) -> &Claim {
        &self.header().claims[(seq % CLAIM_ENTRIES) as usize]
    }

    fn ring(&self) -> Ring<'_> {
        let shared = self.shared();
        Ring { cursors: &shared.header.ring, words: &shared.ring }
    }

    /// Lets the next stack dump begin at the start of its area.
    fn rewind_stack(&self) -> Result<()> {
        lseek(&self.fd, file_offset(STACK_OFFSET), Whence::SeekSet)
            .failed_to("rewind a stack area")?;
        Ok(())
    }
}

/// The supervisor's side of a page.
#[derive(Debug)]
pub struct PageOwner {
    page: Page,
    results: Consumer,
}

impl PageOwner {
    /// Makes a page, all zero.
    pub fn create() -> Result<Self> {
        let memory = SharedMemory::create(c"deadpool-page", PAGE_BYTES)?;
        let page = Page::map(memory.into_owned())?;
        Ok(Self { page, results: Consumer::default() })
    }

    /// Makes the entry of `seq` claimable. To be called before the task is sent, and not while a
    /// task whose number is the same modulo [`CLAIM_ENTRIES`] is with the worker.
    pub fn announce(&self, seq: u32) {
        self.page.claim(seq).announce(seq);
    }

    /// Takes a task back unless it has begun.
    pub fn revoke(&self, seq: u32) -> Revoke {
        self.page.claim(seq).revoke(seq, clock::now())
    }

    /// How far the worker is with a task.
    pub fn state(&self, seq: u32) -> ClaimState {
        self.page.claim(seq).state(seq, clock::now())
    }

    /// How long the task took whose result came, if the worker has written it down.
    pub fn took(&self, seq: u32) -> Option<Duration> {
        self.page.claim(seq).took()
    }

    /// Hands every result that is in the ring now to `each`, in order; says how many there were.
    ///
    /// An error means that the worker scribbled over the ring; there is no way to go on with it.
    pub fn pop_results(&mut self, each: impl FnMut(&[u8])) -> Result<usize> {
        self.results.drain(self.page.ring(), each)
    }

    /// Asks the worker to send a doorbell with its next result; false if there is one already.
    ///
    /// To be called before waiting for events. After false, come back to
    /// [`pop_results`](Self::pop_results) without waiting, but don't loop on this worker alone: it
    /// may push without end.
    #[must_use]
    pub fn arm_doorbell(&self) -> bool {
        self.results.arm_doorbell(self.page.ring())
    }

    /// Names the task that the worker is to interrupt; a signal must follow to make it look.
    pub fn soft_interrupt(&self, seq: u32) {
        let word = SOFT_INTERRUPT | u64::from(seq);
        self.page.header().soft_interrupt.store(word, Ordering::Release);
    }

    /// Whether the worker has not seen yet that it is to interrupt this task.
    pub fn is_interrupting(&self, seq: u32) -> bool {
        let word = self.page.header().soft_interrupt.load(Ordering::Acquire);
        word == SOFT_INTERRUPT | u64::from(seq)
    }

    /// The stack dumps written since the last [`clear_stack`](Self::clear_stack), or "".
    pub fn stack_text(&self) -> String {
        let mut text = Vec::new();
        // Stopping at the first zero also keeps memory that was never written from being allocated.
        for word in &self.page.shared().stack {
            let bytes = word.load(Ordering::Relaxed).to_ne_bytes();
            let written = bytes.iter().position(|&byte| byte == 0).unwrap_or(bytes.len());
            text.extend_from_slice(&bytes[..written]);
            if written < bytes.len() {
                break;
            }
        }
        String::from_utf8_lossy(&text).into_owned()
    }

    /// Empties the stack area and gives its memory back.
    pub fn clear_stack(&self) -> Result<()> {
        let mode = FallocateFlags::FALLOC_FL_PUNCH_HOLE | FallocateFlags::FALLOC_FL_KEEP_SIZE;
        fallocate(&self.page.fd, mode, file_offset(STACK_OFFSET), file_offset(STACK_BYTES))
            .failed_to("clear a stack area")?;
        // The file offset belongs to the open file, so this moves the worker's too.
        self.page.rewind_stack()
    }

    /// How many stack dumps the worker has finished.
    pub fn stack_dumps(&self) -> u32 {
        self.page.header().stack_dumps.load(Ordering::Acquire)
    }

    /// How many exit handlers user code has registered in the worker.
    pub fn exit_handlers(&self) -> u32 {
        self.page.header().exit_handlers.load(Ordering::Acquire)
    }

    /// Whether the worker's exit handlers have run.
    pub fn exit_done(&self) -> bool {
        self.page.header().exit_done.load(Ordering::Acquire) != 0
    }

    /// The resident memory that the worker last told of.
    pub fn rss_bytes(&self) -> Option<u64> {
        match self.page.header().rss_bytes.load(Ordering::Relaxed) {
            0 => None,
            bytes => Some(bytes),
        }
    }
}

/// The memfd to pass to the worker.
impl AsFd for PageOwner {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.page.fd.as_fd()
    }
}

/// The worker's side of a page. All of it may be used from any thread.
#[derive(Debug)]
pub struct PageUser {
    page: Page,
    results: Mutex<Producer>,
}

impl PageUser {
    /// Takes the memfd that came from the supervisor; once a page.
    pub fn from_owned(fd: OwnedFd) -> Result<Self> {
        let page = Page::map(fd)?;
        page.rewind_stack()?;
        Ok(Self { page, results: Mutex::default() })
    }

    /// Tries to get a task, and notes when it began. It may be touched only when this is true.
    #[must_use]
    pub fn claim(&self, seq: u32) -> bool {
        let claim = self.page.claim(seq);
        let is_ours = claim.claim(seq);
        if is_ours {
            claim.stamp(clock::now());
        }
        is_ours
    }

    /// Notes when a task that was claimed is over. To be called before its result is sent.
    pub fn mark_ended(&self, seq: u32, now: Time) {
        self.page.claim(seq).stamp_end(now);
    }

    /// Pushes one result, the concatenation of `parts`. False if it has to go another way: it is
    /// too long, the ring is full, or another thread is pushing.
    #[must_use]
    pub fn push_result(&self, parts: &[&[u8]]) -> bool {
        self.results.try_lock().is_ok_and(|mut results| results.push(self.page.ring(), parts))
    }

    /// Whether the supervisor must be sent a doorbell now. To be called after every push; true only
    /// once for each time the supervisor asked.
    #[must_use]
    pub fn doorbell_wanted(&self) -> bool {
        self.page.ring().take_doorbell()
    }

    /// The task to be interrupted, if the supervisor named one.
    ///
    /// Async-signal-safe.
    pub fn soft_interrupt(&self) -> Option<u32> {
        let word = self.page.header().soft_interrupt.load(Ordering::Acquire);
        word.checked_sub(SOFT_INTERRUPT).and_then(|seq| u32::try_from(seq).ok())
    }

    /// Whether this task is to be interrupted; true once only, however often it was asked for.
    ///
    /// Async-signal-safe.
    pub fn take_soft_interrupt(&self, seq: u32) -> bool {
        let word = SOFT_INTERRUPT | u64::from(seq);
        let place = &self.page.header().soft_interrupt;
        place.compare_exchange(word, 0, Ordering::AcqRel, Ordering::Relaxed).is_ok()
    }

    /// Where stack dumps are to be written, by `write(2)`, each following the one before.
    pub fn stack_fd(&self) -> BorrowedFd<'_> {
        self.page.fd.as_fd()
    }

    /// Tells that one more stack dump is complete. Async-signal-safe.
    pub fn mark_stack_dumped(&self) {
        self.page.header().stack_dumps.fetch_add(1, Ordering::Release);
    }

    /// Tells how many exit handlers user code has registered.
    pub fn set_exit_handlers(&self, count: u32) {
        self.page.header().exit_handlers.store(count, Ordering::Release);
    }

    /// Tells that the exit handlers have run.
    pub fn mark_exit_done(&self) {
        self.page.header().exit_done.store(1, Ordering::Release);
    }

    /// Tells how much memory the worker has resident.
    pub fn set_rss_bytes(&self, bytes: u64) {
        self.page.header().rss_bytes.store(bytes, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use std::fs::File;
    use std::io::Write;
    use std::os::fd::IntoRawFd;

    use super::*;

    fn both() -> (PageOwner, PageUser) {
        let owner = PageOwner::create().unwrap();
        let fd = owner.as_fd().try_clone_to_owned().unwrap();
        (owner, PageUser::from_owned(fd).unwrap())
    }

    fn stack_file(user: &PageUser) -> File {
        user.stack_fd().try_clone_to_owned().unwrap().into()
    }

    #[test]
    fn both_sides_agree_on_claims() {
        let (owner, user) = both();
        let before = clock::now();
        for seq in 100..100 + CLAIM_ENTRIES {
            owner.announce(seq);
            assert_eq!(owner.state(seq), ClaimState::NotClaimed);
        }
        assert!(user.claim(110));
        let ClaimState::Claimed { started: Some(started) } = owner.state(110) else { panic!() };
        assert!(before <= started && started <= clock::now());
        assert_eq!(owner.revoke(110), Revoke::AlreadyClaimed { started: Some(started) });
        assert_eq!(owner.revoke(111), Revoke::Revoked);
        assert!(!user.claim(111));
        assert!(!user.claim(46));
    }

    #[test]
    fn results_and_doorbells_cross() {
        let (mut owner, user) = both();
        assert!(owner.arm_doorbell());
        assert!(user.push_result(&[b"re", b"sult"]));
        assert!(user.doorbell_wanted());
        assert!(!user.doorbell_wanted());
        assert!(!owner.arm_doorbell());
        let mut seen = Vec::new();
        assert_eq!(owner.pop_results(|result| seen.push(result.to_vec())).unwrap(), 1);
        assert_eq!(seen, [b"result"]);
        assert!(owner.arm_doorbell());
    }

    #[test]
    fn results_outlive_the_worker() {
        let (mut owner, user) = both();
        assert!(user.push_result(&[b"last words"]));
        drop(user);
        assert_eq!(owner.pop_results(|result| assert_eq!(result, b"last words")).unwrap(), 1);
    }

    #[test]
    fn stack_dumps_are_appended_and_cleared() {
        let (owner, user) = both();
        assert_eq!(owner.stack_text(), "");
        let mut file = stack_file(&user);
        file.write_all(b"File \"a.py\"\n").unwrap();
        file.write_all("in \u{e4}\n".as_bytes()).unwrap();
        user.mark_stack_dumped();
        assert_eq!(owner.stack_text(), "File \"a.py\"\nin \u{e4}\n");
        assert_eq!(owner.stack_dumps(), 1);
        owner.clear_stack().unwrap();
        assert_eq!(owner.stack_text(), "");
        file.write_all(b"again").unwrap();
        assert_eq!(owner.stack_text(), "again");
    }

    #[test]
    fn a_dump_that_is_too_long_is_cut() {
        let (owner, user) = both();
        let mut file = stack_file(&user);
        while file.write_all(&[b'x'; 1000]).is_ok() {}
        let len = owner.stack_text().len();
        assert!(len > STACK_BYTES - 8192 && len <= STACK_BYTES, "{len}");
    }

    #[test]
    fn single_words_cross() {
        let (owner, user) = both();
        assert_eq!((owner.rss_bytes(), owner.exit_handlers(), owner.exit_done()), (None, 0, false));
        user.set_rss_bytes(1 << 40);
        user.set_exit_handlers(3);
        user.mark_exit_done();
        assert_eq!(owner.rss_bytes(), Some(1 << 40));
        assert_eq!((owner.exit_handlers(), owner.exit_done()), (3, true));
        assert_eq!(user.soft_interrupt(), None);
        owner.soft_interrupt(0);
        assert_eq!(user.soft_interrupt(), Some(0));
        owner.soft_interrupt(u32::MAX);
        assert_eq!(user.soft_interrupt(), Some(u32::MAX));
        assert!(owner.is_interrupting(u32::MAX));
        assert!(!user.take_soft_interrupt(0));
        assert!(user.take_soft_interrupt(u32::MAX));
        assert!(!user.take_soft_interrupt(u32::MAX));
        assert!(!owner.is_interrupting(u32::MAX));
    }

    #[test]
    fn a_page_of_garbage_is_an_error_at_worst() {
        let (mut owner, user) = both();
        let mut file = stack_file(&user);
        lseek(&file, 0, Whence::SeekSet).unwrap();
        file.write_all(&vec![0xff; PAGE_BYTES]).unwrap();
        assert!(owner.pop_results(|_| ()).is_err());
        assert_eq!(owner.state(1), ClaimState::Lost);
        assert_eq!(owner.revoke(1), Revoke::AlreadyClaimed { started: None });
        assert_eq!(owner.stack_text().chars().count(), STACK_BYTES);
        assert!(!user.claim(1));
        let _ = user.push_result(&[b"x"]);
    }

    #[test]
    fn only_a_whole_page_is_taken() {
        let short = SharedMemory::create(c"test", PAGE_BYTES - 1).unwrap();
        assert!(PageUser::from_owned(short.into_owned()).is_err());
        let (_, user) = both();
        assert!(user.page.fd.try_clone().unwrap().into_raw_fd() > 2);
    }
}
