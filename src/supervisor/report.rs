//! What is said of a worker that died.

use std::time::Duration;

use crate::exit_status::ExitStatus;
use crate::outcome::{Cause, DeathReport, Failure};
use crate::supervisor::messages::Outcome;
use crate::sys::clock;
use crate::sys::oom::OomWatch;
use crate::time::Time;

use super::remote::Remote;

/// For how long a kill that was counted may still be that of a worker which was not asked about yet.
const SAME_SHORTAGE: Duration = Duration::from_secs(1);

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
    // Whether it could be read the last time, and compared with the time before.
    is_known: bool,
    // Kills that explain no death so far, and when they were seen.
    unexplained: u64,
    since: Time,
}

impl Counter {
    fn new(watch: OomWatch) -> Self {
        Self { seen: watch.count(), watch, is_known: false, unexplained: 0, since: clock::now() }
    }

    /// Read it. A kill is counted before it is carried out, so that of a dead process is among them.
    fn look(&mut self, now: Time) {
        let count = self.watch.count();
        let before = self.seen;
        self.seen = count.or(before);
        self.is_known = count.is_some() && before.is_some();
        if now.since(self.since) > SAME_SHORTAGE {
            self.unexplained = 0;
        }
        let more = count.zip(before).map_or(0, |(count, before)| count.saturating_sub(before));
        if more > 0 {
            self.unexplained += more;
            self.since = now;
        }
    }

    /// Whether it counted a kill that may be this death and explains none before it.
    ///
    /// Several workers may be killed before one of them is asked about.
    fn explains_one(&mut self) -> Option<bool> {
        let explains = self.unexplained > 0;
        self.unexplained = self.unexplained.saturating_sub(1);
        self.is_known.then_some(explains)
    }
}

impl OomVerdict {
    pub fn new() -> Self {
        let ours = Counter::new(OomWatch::of_process(std::process::id()));
        Self { ours, machine: Counter::new(OomWatch::of_machine()) }
    }

    /// See how many kills there were until now.
    pub fn look(&mut self) {
        let now = clock::now();
        self.ours.look(now);
        self.machine.look(now);
    }

    /// Whether the kernel killed a process that was not killed by us and ended so before the last look.
    fn judge(&mut self, exit: ExitStatus) -> Option<bool> {
        match exit {
            ExitStatus::Signal(libc::SIGKILL) => {
                match (self.ours.explains_one()?, self.machine.explains_one()) {
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
        Some(exit) => {
            if exit == ExitStatus::Signal(libc::SIGKILL) && !remote.is_looked_into {
                oom.look();
            }
            (exit, oom.judge(exit))
        }
        // It ends before its worker has: we are the ones who kill it.
        None if remote.survives.is_some() => (ExitStatus::Unknown, Some(false)),
        None => (ExitStatus::Signal(libc::SIGKILL), Some(false)),
    };
    let text = remote.page().stack_text();
    let stack = Some(text.trim_end().to_owned()).filter(|text| !text.is_empty());
    // What was seen last can be old, and a task that dies soon may never have been looked at; the
    // kernel has counted all the time.
    let seen = remote.rss_bytes.or_else(|| remote.page().rss_bytes());
    let rss_bytes = seen.max(remote.peak_rss_bytes);
    let survives = remote.survives.clone();
    failure.report = Some(DeathReport { pid, exit, survives, rss_bytes, oom_killed, stack });
}

#[cfg(test)]
mod tests {
    use std::fs::File;
    use std::io::Write;

    use super::*;

    #[test]
    fn each_kill_that_was_counted_explains_one_death() {
        let path = std::env::temp_dir().join(format!("deadpool-oom-{}", std::process::id()));
        let counted =
            |count: u64| write!(File::create(&path).unwrap(), "oom_kill {count}").unwrap();
        counted(7);
        let watch = OomWatch::of_file(File::open(&path).unwrap());
        let mut kills = Counter::new(watch);
        let now = clock::now();
        let mut at = |milliseconds| {
            kills.look(now + Duration::from_millis(milliseconds));
            kills.explains_one()
        };
        assert_eq!(at(0), Some(false));
        counted(9);
        assert_eq!([at(10), at(20), at(30)], [Some(true), Some(true), Some(false)]);
        counted(11);
        assert_eq!([at(40), at(2000)], [Some(true), Some(false)]);
        // Both were seen when the first of two deaths was.
        counted(13);
        kills.look(now + Duration::from_secs(4));
        assert_eq!([(); 3].map(|()| kills.explains_one()), [Some(true), Some(true), Some(false)]);
        std::fs::remove_file(path).unwrap();
    }
}
