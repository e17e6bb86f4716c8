//! Sleeping until a word in this process's own memory changes.

use std::ptr;
use std::sync::atomic::AtomicU32;
use std::time::Duration;

use nix::errno::Errno;

/// How a [`wait`] ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[must_use]
pub enum Waited {
    /// The word was not the expected one, or somebody called [`wake`]: look again.
    Woken,
    /// The time was up.
    TimedOut,
    /// A signal handler ran; one written in Python waits for its thread to return to Python.
    Interrupted,
}

/// **Blocks** while `word` is `expected`, until woken, for at most `timeout`; `None` is for ever.
///
/// Wake-ups may be spurious, so the caller loops. It doesn't loop in here, because the caller must
/// run Python's signal handlers when interrupted. Handlers installed with `SA_RESTART`, which
/// Python's are not, interrupt only a wait that has a timeout.
pub fn wait(word: &AtomicU32, expected: u32, timeout: Option<Duration>) -> Waited {
    let limit = timeout.map(timespec);
    let limit = limit.as_ref().map_or(ptr::null(), ptr::from_ref);
    // SAFETY: the word is a live, aligned 32-bit atomic, and the timespec outlives the call.
    let result = unsafe {
        libc::syscall(
            libc::SYS_futex,
            word.as_ptr(),
            libc::FUTEX_WAIT | libc::FUTEX_PRIVATE_FLAG,
            expected,
            limit,
        )
    };
    match Errno::result(result) {
        Err(Errno::ETIMEDOUT) => Waited::TimedOut,
        Err(Errno::EINTR) => Waited::Interrupted,
        // EAGAIN says that the word had changed before anyone slept. Nothing else can come back
        // from these arguments, and looking again is right for whatever would.
        Ok(_) | Err(_) => Waited::Woken,
    }
}

/// Wakes at most `count` waiters of `word`; says how many. Doesn't block.
///
/// The word must be changed first, or they may sleep again. Async-signal-safe.
pub fn wake(word: &AtomicU32, count: u32) -> usize {
    if count == 0 {
        // The kernel would be asked to look for nobody, once for each task that has a callback.
        return 0;
    }
    let count = libc::c_int::try_from(count).unwrap_or(libc::c_int::MAX);
    let operation = libc::FUTEX_WAKE | libc::FUTEX_PRIVATE_FLAG;
    // SAFETY: the word is a live, aligned 32-bit atomic. The call takes no other pointer.
    let woken = unsafe { libc::syscall(libc::SYS_futex, word.as_ptr(), operation, count) };
    usize::try_from(woken).unwrap_or(0)
}

fn timespec(duration: Duration) -> libc::timespec {
    libc::timespec {
        // A wait of centuries is as good as one of more.
        tv_sec: libc::time_t::try_from(duration.as_secs()).unwrap_or(libc::time_t::MAX),
        tv_nsec: duration.subsec_nanos().into(),
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::sync::atomic::Ordering;
    use std::thread;

    use nix::sys::signal::{SaFlags, SigAction, SigHandler, SigSet, Signal, sigaction};

    use super::*;
    use crate::sys::signals;

    #[test]
    fn a_changed_word_is_not_waited_for() {
        assert_eq!(wait(&AtomicU32::new(1), 0, None), Waited::Woken);
        assert_eq!(wake(&AtomicU32::new(1), u32::MAX), 0);
    }

    #[test]
    fn time_runs_out() {
        let word = AtomicU32::new(0);
        for timeout in [Duration::ZERO, Duration::from_micros(50)] {
            assert_eq!(wait(&word, 0, Some(timeout)), Waited::TimedOut);
        }
    }

    #[test]
    fn a_wake_is_never_missed() {
        let word = Arc::new(AtomicU32::new(0));
        let waiter = {
            let word = Arc::clone(&word);
            thread::spawn(move || {
                while word.load(Ordering::Acquire) == 0 {
                    let _ = wait(&word, 0, Some(Duration::MAX));
                }
            })
        };
        word.store(1, Ordering::Release);
        wake(&word, 1);
        waiter.join().unwrap();
    }

    #[test]
    fn a_signal_interrupts() {
        extern "C" fn nothing(_: libc::c_int) {}
        // Like Python's own handlers, without SA_RESTART.
        let action =
            SigAction::new(SigHandler::Handler(nothing), SaFlags::empty(), SigSet::empty());
        // SAFETY: the handler does nothing, and no other test uses this signal.
        unsafe { sigaction(Signal::SIGWINCH, &action) }.unwrap();
        let word = AtomicU32::new(0);
        let waiter_id = AtomicU32::new(0);
        thread::scope(|scope| {
            let waiter = scope.spawn(|| {
                waiter_id.store(signals::thread_id(), Ordering::Release);
                while wait(&word, 0, None) != Waited::Interrupted {}
            });
            // A signal that comes before the wait doesn't interrupt it, so there are many.
            while !waiter.is_finished() {
                let id = waiter_id.load(Ordering::Acquire);
                if id != 0 {
                    signals::thread_kill(std::process::id(), id, libc::SIGWINCH).unwrap();
                }
                thread::yield_now();
            }
        });
    }
}
