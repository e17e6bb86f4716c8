//! What is said of a worker that died.

use crate::outcome::{Cause, DeathReport, ExitStatus, Failure, Outcome};
use crate::sys::oom::OomWatch;

use super::remote::Remote;

/// The end of a task in a pool that failed.
pub(super) fn pool_failed(reason: &str) -> Outcome {
    let cause = Cause::PoolFailed { reason: reason.to_owned() };
    Outcome::Failed(Box::new(Failure { cause, report: None }))
}

/// Tells the kernel's out-of-memory kills from others.
#[derive(Debug)]
pub(super) struct OomVerdict {
    ours: Counter,
    machine: Counter,
}

#[derive(Debug)]
struct Counter {
    watch: OomWatch,
    seen: Option<u64>,
}

impl Counter {
    fn new(watch: OomWatch) -> Self {
        Self { seen: watch.count(), watch }
    }

    /// Whether it went up since this was asked last.
    fn has_moved(&mut self) -> Option<bool> {
        let count = self.watch.count()?;
        let before = self.seen.replace(count)?;
        Some(count > before)
    }
}

impl OomVerdict {
    pub fn new() -> Self {
        let ours = Counter::new(OomWatch::of_process(std::process::id()));
        Self { ours, machine: Counter::new(OomWatch::of_machine()) }
    }

    /// Whether the kernel killed a process that was not killed by us and ended so.
    fn judge(&mut self, exit: ExitStatus) -> Option<bool> {
        match exit {
            ExitStatus::Signal(libc::SIGKILL) => {
                match (self.ours.has_moved()?, self.machine.has_moved()) {
                    (true, _) => Some(true),
                    // The task may have moved to a cgroup of its own, or it was somebody else.
                    (false, Some(true)) => None,
                    (false, _) => Some(false),
                }
            }
            ExitStatus::Unknown => None,
            _ => Some(false),
        }
    }
}

/// Put what is known of the worker into the end of its task.
pub(super) fn describe(outcome: &mut Outcome, remote: &mut Remote, oom: &mut OomVerdict) {
    let Outcome::Failed(failure) = outcome else { return };
    let Some(pid) = remote.pid() else { return };
    let (exit, oom_killed) = match remote.exit {
        Some(exit) => (exit, oom.judge(exit)),
        // It ends before its worker has: we are the ones who kill it.
        None => (ExitStatus::Signal(libc::SIGKILL), Some(false)),
    };
    let text = remote.page().stack_text();
    let stack = Some(text.trim_end().to_owned()).filter(|text| !text.is_empty());
    // What was seen last can be old, and a task that dies soon may never have been looked at; the
    // kernel has counted all the time.
    let seen = remote.rss_bytes.or_else(|| remote.page().rss_bytes());
    let rss_bytes = seen.max(remote.peak_rss_bytes);
    failure.report = Some(DeathReport { pid, exit, rss_bytes, oom_killed, stack });
}
