//! How our own children ended.

use std::mem;

use nix::errno::Errno;

use super::FailedTo;
use crate::error::Result;
use crate::exit_status::ExitStatus;

/// Interprets a status as `wait(2)` fills it in.
pub fn from_status(status: i32) -> ExitStatus {
    if libc::WIFEXITED(status) {
        ExitStatus::Code(libc::WEXITSTATUS(status))
    } else if libc::WIFSIGNALED(status) {
        ExitStatus::Signal(libc::WTERMSIG(status))
    } else {
        ExitStatus::Unknown
    }
}

/// How the child `pid` ended, leaving it a zombie; `None` if it is alive. Doesn't block.
///
/// An error if it is not our child, or was reaped.
pub fn peek(pid: u32) -> Result<Option<ExitStatus>> {
    let found = wait_for(libc::P_PID, pid, libc::WNOWAIT).failed_to("wait for a child")?;
    Ok(found.map(|(_, status)| status))
}

/// Like [`peek`], and gives its pid back to the kernel if it has died. Doesn't block.
pub fn reap(pid: u32) -> Result<Option<ExitStatus>> {
    let found = wait_for(libc::P_PID, pid, 0).failed_to("wait for a child")?;
    Ok(found.map(|(_, status)| status))
}

/// Finds a child that has died, without reaping it; `None` if all are alive or there is none.
/// Doesn't block.
pub fn peek_any() -> Result<Option<(u32, ExitStatus)>> {
    none_without_children(wait_for(libc::P_ALL, 0, libc::WNOWAIT))
}

/// Reaps any child that has died; `None` if all are alive or there is none. Doesn't block.
pub fn reap_any() -> Result<Option<(u32, ExitStatus)>> {
    none_without_children(wait_for(libc::P_ALL, 0, 0))
}

/// Like [`reap_any`], and tells the most resident memory that the child had, in bytes; what its own
/// children had counts if it waited for them.
pub fn reap_any_measured() -> Result<Option<(u32, ExitStatus, u64)>> {
    let mut status = 0;
    // SAFETY: an all-zero rusage is a valid one.
    let mut usage: libc::rusage = unsafe { mem::zeroed() };
    // SAFETY: both are valid places to write to. Without waiting there is no EINTR.
    let waited = unsafe { libc::wait4(-1, &raw mut status, libc::WNOHANG, &raw mut usage) };
    let found = Errno::result(waited).map(|pid| u32::try_from(pid).ok().filter(|&pid| pid != 0));
    // Linux counts in KiB.
    let peak_rss_bytes = u64::try_from(usage.ru_maxrss).unwrap_or(0) << 10;
    let measured = found.map(|found| found.map(|pid| (pid, from_status(status), peak_rss_bytes)));
    none_without_children(measured)
}

fn none_without_children<T>(result: nix::Result<Option<T>>) -> Result<Option<T>> {
    match result {
        Err(Errno::ECHILD) => Ok(None),
        result => result.failed_to("wait for a child"),
    }
}

fn wait_for(
    kind: libc::idtype_t,
    id: u32,
    flags: libc::c_int,
) -> nix::Result<Option<(u32, ExitStatus)>> {
    let flags = libc::WEXITED | libc::WNOHANG | flags;
    // SAFETY: an all-zero siginfo is a valid one.
    let mut info: libc::siginfo_t = unsafe { mem::zeroed() };
    // SAFETY: `info` is a valid place to write a siginfo to. Without waiting there is no EINTR.
    Errno::result(unsafe { libc::waitid(kind, id, &raw mut info, flags) })?;
    // SAFETY: both fields are set when `waitid` found a child, and zero when it didn't.
    let (pid, status) = unsafe { (info.si_pid(), info.si_status()) };
    let status = match info.si_code {
        libc::CLD_EXITED => ExitStatus::Code(status),
        libc::CLD_KILLED | libc::CLD_DUMPED => ExitStatus::Signal(status),
        _ => ExitStatus::Unknown,
    };
    Ok(u32::try_from(pid).ok().filter(|&pid| pid != 0).map(|pid| (pid, status)))
}

#[cfg(test)]
mod tests {
    use std::process::Command;

    use super::*;

    #[test]
    fn statuses_are_told_apart() {
        assert_eq!(from_status(0), ExitStatus::Code(0));
        assert_eq!(from_status(0x0300), ExitStatus::Code(3));
        assert_eq!(from_status(9), ExitStatus::Signal(9));
        // With a core dump.
        assert_eq!(from_status(0x8b), ExitStatus::Signal(11));
        // Stopped, which is no end.
        assert_eq!(from_status(0x137f), ExitStatus::Unknown);
    }

    #[test]
    #[expect(clippy::zombie_processes, reason = "reaping it is what is tested")]
    fn peeking_leaves_it_to_be_reaped() {
        for (script, expected) in [
            ("read x; exit 5", ExitStatus::Code(5)),
            ("read x; kill -40 $$", ExitStatus::Signal(40)),
        ] {
            let mut child = Command::new("sh")
                .args(["-c", script])
                .stdin(std::process::Stdio::piped())
                .spawn()
                .unwrap();
            assert_eq!(peek(child.id()).unwrap(), None);
            drop(child.stdin.take());
            while peek(child.id()).unwrap().is_none() {
                std::thread::yield_now();
            }
            assert_eq!(peek(child.id()).unwrap(), Some(expected));
            assert_eq!(reap(child.id()).unwrap(), Some(expected));
            assert!(peek(child.id()).is_err());
        }
    }
}
