//! Processes by fd: a reference that can't come to mean another process.

use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd};
use std::ptr;

use nix::errno::Errno;

use super::descriptor::above_standard;
use super::poller::is_readable;
use super::{FailedTo, proc_file, wait};
use crate::error::{Error, Result};
use crate::exit_status::ExitStatus;

/// A process, alive, dead or gone. The fd becomes readable when it dies.
#[derive(Debug)]
pub struct PidFd {
    fd: OwnedFd,
}

impl PidFd {
    /// Refers to whatever process has this pid now; an error if none has.
    pub fn open(pid: u32) -> Result<Self> {
        Self::try_open(pid).failed_to("open a process")
    }

    /// Like [`open`](Self::open), for callers to whom a missing process is nothing special.
    pub(super) fn try_open(pid: u32) -> nix::Result<Self> {
        // SAFETY: the call takes no pointer.
        let fd = Errno::result(unsafe { libc::syscall(libc::SYS_pidfd_open, pid, 0) })?;
        let fd = i32::try_from(fd).map_err(|_| Errno::EBADF)?;
        // SAFETY: the kernel has just made this fd for us; it is close-on-exec by itself.
        let fd = unsafe { OwnedFd::from_raw_fd(fd) };
        above_standard(fd).map(|fd| Self { fd }).map_err(|_| Errno::EMFILE)
    }

    /// The calling process.
    pub fn current() -> Result<Self> {
        Self::open(std::process::id())
    }

    /// Takes a pidfd that came from another process.
    pub fn from_owned(fd: OwnedFd) -> Self {
        Self { fd }
    }

    /// Sends a signal; false if the process is gone. Succeeds on a zombie.
    ///
    /// Doesn't block; async-signal-safe.
    pub fn signal(&self, signal: i32) -> Result<bool> {
        let fd = self.fd.as_raw_fd();
        let info = ptr::null::<libc::siginfo_t>();
        // SAFETY: without a siginfo the call reads no memory.
        let result = unsafe { libc::syscall(libc::SYS_pidfd_send_signal, fd, signal, info, 0) };
        match Errno::result(result) {
            Ok(_) => Ok(true),
            Err(Errno::ESRCH) => Ok(false),
            Err(errno) => Err(Error::errno("signal a process", errno)),
        }
    }

    /// Whether it still has its pid: it is alive, or a zombie. While it has, nobody else does.
    pub(super) fn has_pid(&self) -> bool {
        // A process that we may not signal is there as well.
        !matches!(self.signal(0), Ok(false))
    }

    /// Whether it has died, reaped or not.
    pub fn has_exited(&self) -> Result<bool> {
        is_readable(self.fd.as_fd())
    }

    /// How it ended, as far as the kernel tells somebody who is not its parent.
    ///
    /// [`ExitStatus::Unknown`] if it has not died; or has been reaped, before Linux 6.15; or is a
    /// zombie, before Linux 6.13 or where its `/proc` is not ours to read.
    pub fn exit_status(&self) -> ExitStatus {
        let Some(info) = Info::of(self, Info::EXIT) else {
            return ExitStatus::Unknown;
        };
        if info.mask & Info::EXIT != 0 {
            return wait::from_status(info.exit_code);
        }
        // The kernel tells that only of a reaped process. Of a zombie, `/proc` does.
        let status = proc_file::zombie_status(info.pid);
        match status {
            Some(status) if self.has_pid() => wait::from_status(status),
            _ => ExitStatus::Unknown,
        }
    }

    /// Its parent's pid, from Linux 6.13; `None` before that or when it has been reaped.
    pub(super) fn parent(&self) -> Option<u32> {
        Info::of(self, 0).map(|info| info.ppid)
    }
}

impl AsFd for PidFd {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

/// `struct pidfd_info` in its first published size; see `linux/pidfd.h`.
#[repr(C)]
#[derive(Default)]
struct Info {
    mask: u64,
    cgroup_id: u64,
    pid: u32,
    tgid: u32,
    ppid: u32,
    /// Real, effective, saved and file system user and group.
    credentials: [u32; 8],
    exit_code: i32,
}

const _: () = assert!(size_of::<Info>() == 64);

impl Info {
    /// `PIDFD_INFO_EXIT`: asks for the exit code, and tells that it is there.
    const EXIT: u64 = 1 << 3;

    fn of(process: &PidFd, mask: u64) -> Option<Self> {
        let mut info = Self { mask, ..Self::default() };
        // `PIDFD_GET_INFO`.
        let request = nix::request_code_readwrite!(0xff, 11, size_of::<Info>());
        // SAFETY: the request names the size of what the pointer refers to, and the kernel writes
        // no more than that. Older kernels know no such request and write nothing.
        let result = unsafe { libc::ioctl(process.fd.as_raw_fd(), request, &raw mut info) };
        (result == 0).then_some(info)
    }
}

#[cfg(test)]
mod tests {
    use std::io::{BufRead, BufReader};
    use std::process::{Command, Stdio};

    use super::*;
    use crate::sys::poller::{Events, Interest, Poller};

    /// Returns when the process has died.
    fn await_exit(process: &PidFd) {
        let poller = Poller::new().unwrap();
        poller.add(process.as_fd(), 0, Interest::READ).unwrap();
        poller.wait(&mut Events::with_capacity(1)).unwrap();
        assert!(process.has_exited().unwrap());
    }

    #[test]
    fn signals_until_it_is_gone() {
        let mut child = Command::new("sleep").arg("1000").spawn().unwrap();
        let process = PidFd::open(child.id()).unwrap();
        assert!(!process.has_exited().unwrap());
        assert_eq!(process.exit_status(), ExitStatus::Unknown);
        assert!(process.signal(libc::SIGKILL).unwrap());
        await_exit(&process);
        assert!(process.signal(libc::SIGKILL).unwrap());
        assert!(process.has_pid());
        child.wait().unwrap();
        assert!(!process.signal(libc::SIGKILL).unwrap());
        assert!(!process.has_pid());
    }

    #[test]
    fn the_way_it_ended_is_told_before_and_after_it_is_reaped() {
        if PidFd::current().unwrap().parent().is_none() {
            return;
        }
        for (script, expected) in [
            ("exit 0", ExitStatus::Code(0)),
            ("exit 77", ExitStatus::Code(77)),
            ("kill -9 $$", ExitStatus::Signal(9)),
            ("kill -40 $$", ExitStatus::Signal(40)),
        ] {
            let mut child = Command::new("sh").args(["-c", script]).spawn().unwrap();
            let process = PidFd::open(child.id()).unwrap();
            await_exit(&process);
            assert_eq!(process.exit_status(), expected, "zombie: {script}");
            child.wait().unwrap();
            let status = process.exit_status();
            assert!(status == expected || status == ExitStatus::Unknown, "reaped: {script}");
        }
    }

    /// Whether the kernel is new enough to tell how a reaped process ended.
    fn kernel_remembers() -> bool {
        let release = std::fs::read_to_string("/proc/sys/kernel/osrelease").unwrap();
        let mut numbers = release.split(['.', '-']).map_while(|number| number.parse::<u32>().ok());
        (numbers.next(), numbers.next()) >= (Some(6), Some(15))
    }

    #[test]
    fn what_somebody_else_has_reaped_is_told_too() {
        let mut shell = Command::new("bash")
            .args(["-c", "sleep 1000 & echo $!; wait $!; echo; read x"])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut lines = BufReader::new(shell.stdout.take().unwrap()).lines();
        let pid = lines.next().unwrap().unwrap().parse().unwrap();
        let process = PidFd::open(pid).unwrap();
        process.signal(libc::SIGTERM).unwrap();
        // The shell writes this line when it has reaped its child.
        lines.next().unwrap().unwrap();
        assert!(!process.has_pid());
        let expected = if kernel_remembers() {
            ExitStatus::Signal(libc::SIGTERM)
        } else {
            ExitStatus::Unknown
        };
        assert_eq!(process.exit_status(), expected);
        drop(shell.stdin.take());
        shell.wait().unwrap();
    }

    #[test]
    fn knows_its_parent() {
        let current = PidFd::current().unwrap();
        let parent = std::os::unix::process::parent_id();
        assert!(current.parent().is_none_or(|pid| pid == parent));
    }

    #[test]
    fn a_missing_process_is_an_error() {
        assert!(PidFd::open(u32::MAX >> 1).is_err());
    }
}
