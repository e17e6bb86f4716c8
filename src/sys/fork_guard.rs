//! Telling whether an object is used in a fork of the process that made it.
//!
//! A fork has copies of the objects but none of the threads behind them, and shares their fds with
//! its parent. Comparing two numbers tells the processes apart, without the system call that
//! comparing pids would take.

use std::sync::Once;
use std::sync::atomic::{AtomicU32, Ordering};

static GENERATION: AtomicU32 = AtomicU32::new(0);
static FORKS: AtomicU32 = AtomicU32::new(0);
static REGISTERED: Once = Once::new();

unsafe extern "C" {
    fn pthread_atfork(
        prepare: Option<unsafe extern "C" fn()>,
        parent: Option<unsafe extern "C" fn()>,
        child: Option<unsafe extern "C" fn()>,
    ) -> libc::c_int;
}

extern "C" fn count_fork() {
    FORKS.fetch_add(1, Ordering::Relaxed);
}

extern "C" fn count_generation() {
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
    register();
    GENERATION.load(Ordering::Relaxed)
}

/// A number that is another one after each fork, in the process that forks and in the fork.
///
/// A difference means that another process may have copies of the memory there was.
///
/// Doesn't block.
pub fn forks() -> u32 {
    register();
    FORKS.load(Ordering::Relaxed)
}

fn register() {
    REGISTERED.call_once(|| {
        // SAFETY: the handlers only change atomics, which is allowed at a fork. That they can't be
        // registered means no memory, and then only that misuse is not noticed.
        unsafe { pthread_atfork(Some(count_fork), None, Some(count_generation)) };
    });
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
