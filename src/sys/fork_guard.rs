//! Telling whether an object is used in a fork of the process that made it.
//!
//! A fork has copies of the objects but none of the threads behind them, and shares their fds with
//! its parent. Comparing two numbers tells the processes apart, without the system call that
//! comparing pids would take.

use std::sync::Once;
use std::sync::atomic::{AtomicU32, Ordering};

static GENERATION: AtomicU32 = AtomicU32::new(0);
static REGISTERED: Once = Once::new();

unsafe extern "C" {
    fn pthread_atfork(
        prepare: Option<unsafe extern "C" fn()>,
        parent: Option<unsafe extern "C" fn()>,
        child: Option<unsafe extern "C" fn()>,
    ) -> libc::c_int;
}

extern "C" fn count_fork() {
    GENERATION.fetch_add(1, Ordering::Relaxed);
}

/// A number that is the same for the life of a process and another in each fork of it.
///
/// An object notes it when it is made, and compares it when it is used. A child made by a raw
/// `clone` system call is not noticed, which neither Python nor the C library ever makes to go on
/// running the same program.
///
/// Doesn't block.
pub fn generation() -> u32 {
    REGISTERED.call_once(|| {
        // SAFETY: the handler only changes an atomic, which is allowed in a forked child. That it
        // can't be registered means no memory, and then only that misuse is not noticed.
        unsafe { pthread_atfork(None, None, Some(count_fork)) };
    });
    GENERATION.load(Ordering::Relaxed)
}

#[cfg(test)]
mod tests {
    use nix::sys::wait::{WaitStatus, waitpid};
    use nix::unistd::{ForkResult, fork};

    use super::*;

    #[test]
    fn every_fork_is_another_generation() {
        let ours = generation();
        // SAFETY: the child does nothing but read an atomic, fork and exit.
        let exit_code = unsafe {
            match fork().unwrap() {
                ForkResult::Child => {
                    let child = generation();
                    if let Ok(ForkResult::Child) = fork() {
                        libc::_exit(i32::from(generation() == child));
                    }
                    let mut status = -1;
                    libc::wait(&raw mut status);
                    libc::_exit(i32::from(child == ours || status != 0));
                }
                ForkResult::Parent { child } => waitpid(child, None).unwrap(),
            }
        };
        assert!(matches!(exit_code, WaitStatus::Exited(_, 0)), "{exit_code:?}");
        assert_eq!(generation(), ours);
    }
}
