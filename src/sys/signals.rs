//! Signals and the threads they go to.

use std::io;
use std::mem::MaybeUninit;
use std::ptr;
use std::thread::{self, JoinHandle};

use nix::errno::Errno;
use nix::sys::signal::{SigSet, SigmaskHow, Signal};
use nix::unistd::gettid;

use super::FailedTo;
use crate::error::{Error, Result};

/// Raised by a thread's own fault. Blocked, they would kill the process before `faulthandler` could
/// tell where.
const FAULTS: [Signal; 7] = [
    Signal::SIGSEGV,
    Signal::SIGBUS,
    Signal::SIGFPE,
    Signal::SIGILL,
    Signal::SIGABRT,
    Signal::SIGTRAP,
    Signal::SIGSYS,
];

/// Leaves every signal but the faults to the other threads, from now on.
///
/// Python runs its handlers in the main thread; a signal that another thread took would not
/// interrupt the system call that the main thread waits in.
pub fn block_all() -> Result<()> {
    swap_mask().map(drop)
}

fn swap_mask() -> Result<SigSet> {
    let mut blocked = SigSet::all();
    for fault in FAULTS {
        blocked.remove(fault);
    }
    blocked.thread_swap_mask(SigmaskHow::SIG_BLOCK).failed_to("block signals")
}

/// Starts a named thread that takes no signals, not even before its first instruction.
pub fn spawn_blocked<T, F>(name: &str, run: F) -> Result<JoinHandle<T>>
where
    T: Send + 'static,
    F: FnOnce() -> T + Send + 'static,
{
    // A thread inherits the mask of the one that starts it.
    let before = swap_mask()?;
    let thread = thread::Builder::new().name(name.to_owned()).spawn(run);
    before.thread_set_mask().failed_to("restore the signal mask")?;
    thread.map_err(|source: io::Error| Error::Syscall { call: "start a thread", source })
}

/// Signals that must reach the calling thread, whatever user code has done to its mask.
#[derive(Clone, Copy)]
pub struct Wanted(libc::sigset_t);

impl Wanted {
    /// These.
    pub fn new(signals: &[libc::c_int]) -> Self {
        let mut set = MaybeUninit::uninit();
        // SAFETY: the first call initialises the set, the others get it initialised; a number that
        // is no signal is refused.
        unsafe {
            libc::sigemptyset(set.as_mut_ptr());
            for &signal in signals {
                libc::sigaddset(set.as_mut_ptr(), signal);
            }
            Self(set.assume_init())
        }
    }

    /// Unblock them in the calling thread.
    pub fn unblock(&self) {
        // SAFETY: the set is initialised, and nothing is to be written back.
        unsafe { libc::pthread_sigmask(libc::SIG_UNBLOCK, &raw const self.0, ptr::null_mut()) };
    }
}

/// The calling thread, as [`thread_kill`] names it.
pub fn thread_id() -> u32 {
    gettid().as_raw().unsigned_abs()
}

/// Sends a signal to one thread; false if it is gone. Doesn't block.
///
/// The caller must know that the process was not reaped yet, or the pid may mean another by now.
pub fn thread_kill(pid: u32, thread_id: u32, signal: i32) -> Result<bool> {
    // SAFETY: the call takes no pointer.
    let result = unsafe { libc::syscall(libc::SYS_tgkill, pid, thread_id, signal) };
    match Errno::result(result) {
        Ok(_) => Ok(true),
        Err(Errno::ESRCH) => Ok(false),
        Err(errno) => Err(Error::errno("signal a thread", errno)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_spawned_thread_takes_faults_only() {
        let before = SigSet::thread_get_mask().unwrap();
        let mask = spawn_blocked("test", || SigSet::thread_get_mask().unwrap()).unwrap();
        let mask = mask.join().unwrap();
        assert!(mask.contains(Signal::SIGINT) && mask.contains(Signal::SIGTERM));
        assert!(!mask.contains(Signal::SIGSEGV) && !mask.contains(Signal::SIGABRT));
        assert_eq!(SigSet::thread_get_mask().unwrap(), before);
    }

    #[test]
    fn a_signal_reaches_its_thread_alone() {
        spawn_blocked("test", || {
            assert!(thread_kill(std::process::id(), thread_id(), libc::SIGUSR2).unwrap());
            let pending = SigSet::from_iter([Signal::SIGUSR2]).wait().unwrap();
            assert_eq!(pending, Signal::SIGUSR2);
        })
        .unwrap()
        .join()
        .unwrap();
        assert!(!thread_kill(std::process::id(), u32::MAX >> 1, 0).unwrap());
    }
}
