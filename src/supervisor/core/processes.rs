//! Processes: how workers and zygotes start and end.

use std::os::fd::{AsFd, OwnedFd};

use crate::error::Result;
use crate::exit_status::ExitStatus;
use crate::ids::WorkerId;
use crate::policy::event::Event;
use crate::supervisor::messages::{Completion, Launch};
use crate::supervisor::remote::{Process, Remote};
use crate::supervisor::zygotes::Zygote;
use crate::sys::clock;
use crate::sys::pidfd::PidFd;
use crate::sys::poller::Interest;
use crate::time::Time;
use crate::wire::protocol::Report;

use super::readiness::Token;
use super::{CLEARING_GRACE, Core, EXIT_GRACE};

impl<S: Send + Sync + 'static> Core<S> {
    pub(super) fn start(&mut self, id: WorkerId) {
        if let Err(error) = self.try_start(id) {
            let reason = format!("failed to {error}");
            self.events.push_back(Event::StartFailed { worker: id, reason });
        }
    }

    pub(super) fn try_start(&mut self, id: WorkerId) -> Result<()> {
        let zygote_id = match self.common_zygote {
            Some(zygote) => zygote,
            None => self.launch_zygote()?,
        };
        let (remote, ends) = Remote::new(zygote_id).inspect_err(|error| {
            if self.zygote_each {
                // It has nothing to do, and nobody would ever dismiss it.
                self.zygote_gone(zygote_id, &error.to_string());
            }
        })?;
        if self.propagates {
            // It gets what the answer brings, or what was known before if that brings nothing new.
            let _ = self.launches.send(Launch::LookAtEnviron);
        }
        self.remotes.0.insert(id, remote);
        if let Some(zygote) = self.zygotes.get_mut(&zygote_id) {
            zygote.ask(id, ends);
        }
        self.flush_zygote(zygote_id);
        Ok(())
    }

    pub(super) fn launch_zygote(&mut self) -> Result<u64> {
        let id = self.next_zygote;
        self.next_zygote += 1;
        let (zygote, control) = Zygote::new(self.parent.as_fd())?;
        self.poller.add(zygote.control(), Token::Zygote(id).pack(), Interest::READ)?;
        self.zygotes.insert(id, zygote);
        if !self.zygote_each {
            self.common_zygote = Some(id);
        }
        let _ = self.launches.send(Launch::Zygote { zygote: id, control });
        Ok(id)
    }

    pub(super) fn flush_zygote(&mut self, id: u64) {
        let Some(zygote) = self.zygotes.get_mut(&id) else { return };
        for (worker, reason) in zygote.flush(self.parent.as_fd()) {
            self.events.push_back(Event::StartFailed { worker, reason });
        }
    }

    pub(super) fn launched(&mut self, id: u64, result: std::result::Result<u32, String>) {
        match result {
            Ok(pid) => {
                let Some(zygote) = self.zygotes.get_mut(&id) else { return };
                // Its socket is not enough: a process that was forked meanwhile may hold the other
                // end of that.
                let watched = zygote.launched(pid).is_some_and(|process| {
                    let token = Token::ZygoteProcess(id).pack();
                    self.poller.add(process, token, Interest::READ).is_ok()
                });
                if !watched {
                    self.zygote_process_gone(id);
                }
            }
            Err(reason) => self.zygote_gone(id, &reason),
        }
    }

    pub(super) fn hear_zygote(&mut self, id: u64) {
        loop {
            let Some(zygote) = self.zygotes.get_mut(&id) else { return };
            match zygote.receive() {
                Ok(None) => break,
                Ok(Some((report, fd))) => self.on_report(report, fd),
                Err(_) => return self.zygote_gone(id, "the zygote is gone"),
            }
        }
        self.flush_zygote(id);
    }

    /// The process of a zygote is gone, and has said all that it had to say.
    pub(super) fn zygote_process_gone(&mut self, id: u64) {
        self.hear_zygote(id);
        self.zygote_gone(id, "the zygote is gone");
    }

    pub(super) fn on_report(&mut self, report: Report, fd: Option<OwnedFd>) {
        match report {
            Report::Ready => {}
            Report::Forked { worker, pid } => {
                let id = WorkerId::new(worker);
                match fd {
                    Some(fd) => self.forked(id, Process { pid, pidfd: PidFd::from_owned(fd) }),
                    // It can't be followed, so it must not be. Only this start is lost.
                    None => self.give_up_unseen(id),
                }
            }
            Report::ForkFailed { worker, reason } => {
                self.events.push_back(Event::StartFailed { worker: WorkerId::new(worker), reason });
            }
            Report::SignalRefused { worker, reason } => {
                let id = WorkerId::new(worker);
                if self.remotes.0.get(&id).is_some_and(|remote| remote.awaits_kill.is_some()) {
                    self.kill_refused(id, &reason);
                }
            }
            Report::Exited { worker, exit, peak_rss_bytes, leaves } => {
                let id = WorkerId::new(worker);
                let Some(remote) = self.remotes.0.get_mut(&id) else { return };
                remote.exit = Some(exit.into());
                remote.peak_rss_bytes = Some(peak_rss_bytes);
                remote.leaves = leaves;
                if leaves {
                    // Its task fails when nothing of it runs any more, unless that takes too long.
                    self.await_end(id);
                } else {
                    self.worker_gone(id);
                }
            }
            Report::Cleared { worker } => self.worker_gone(WorkerId::new(worker)),
        }
    }

    /// A worker was forked, and the descriptor of its process was lost on the way.
    fn give_up_unseen(&mut self, id: WorkerId) {
        let zygote = self.remotes.0.get(&id).map(|remote| remote.zygote);
        if let Some(zygote) = zygote.and_then(|zygote| self.zygotes.get(&zygote)) {
            // One that can't be asked is about to go, and takes the worker along.
            zygote.signal_worker(id, libc::SIGKILL);
        }
        let reason = "failed to receive the descriptor of its process: too many open files";
        self.events.push_back(Event::StartFailed { worker: id, reason: reason.to_owned() });
    }

    pub(super) fn forked(&mut self, id: WorkerId, process: Process) {
        let pid = process.pid;
        let Some(remote) = self.remotes.0.get_mut(&id) else {
            // Given up while it was being forked.
            let _ = process.pidfd.signal(libc::SIGKILL);
            return;
        };
        let watched = self
            .poller
            .add(process.pidfd.as_fd(), Token::Process(id).pack(), Interest::READ)
            .and_then(|()| {
                self.poller.add(remote.socket().as_fd(), Token::Socket(id).pack(), Interest::READ)
            })
            .and_then(|()| {
                self.poller.add(remote.control().as_fd(), Token::Control(id).pack(), Interest::READ)
            });
        remote.process = Some(process);
        if remote.doomed || watched.is_err() {
            self.kill_process(id);
        }
        self.tell(Completion::WorkerUp(pid));
        self.events.push_back(Event::Forked { worker: id, pid });
        if let Err(error) = watched {
            // Unwatched, its end could be missed, so it gets none of its own.
            self.forget_process(id);
            self.events
                .push_back(Event::StartFailed { worker: id, reason: format!("failed to {error}") });
        }
        self.with_remote(id, |_| {});
    }

    pub(super) fn forget_process(&mut self, id: WorkerId) {
        if let Some(process) = self.remotes.0.get(&id).and_then(|remote| remote.process.as_ref()) {
            let _ = self.poller.remove(process.pidfd.as_fd());
        }
    }

    /// The pidfd says that a worker is gone; its exit status may still be on the way.
    pub(super) fn process_gone(&mut self, id: WorkerId) {
        self.forget_process(id);
        let Some(remote) = self.remotes.0.get_mut(&id) else { return };
        let is_over = remote.exit.is_some() && !remote.leaves;
        if !is_over && self.zygotes.contains_key(&remote.zygote) {
            if self.pool.is_busy(id) && !std::mem::replace(&mut remote.is_looked_into, true) {
                // It will be asked about; now nothing waits for that, as its zygote is at work.
                self.oom.look();
            }
            self.await_end(id);
        } else {
            self.worker_gone(id);
        }
    }

    pub(super) fn worker_gone(&mut self, id: WorkerId) {
        let Some(remote) = self.remotes.0.get_mut(&id) else { return };
        let exit = *remote.exit.get_or_insert_with(|| {
            remote
                .process
                .as_ref()
                .map_or(ExitStatus::Unknown, |process| process.pidfd.exit_status())
        });
        self.release_ends(id);
        // What it had sent before it went comes first.
        self.receive(id);
        self.events.push_back(Event::Exited { worker: id, exit });
    }

    /// Take a worker for gone in a while, whatever is still to be told of it.
    pub(super) fn await_end(&mut self, id: WorkerId) {
        let leaves = self.remotes.0.get(&id).is_some_and(|remote| remote.leaves);
        let grace = if leaves { CLEARING_GRACE } else { EXIT_GRACE };
        self.leaving.insert(id, clock::now() + grace);
    }

    pub(super) fn expire_leaving(&mut self, now: Time) {
        let is_due = |&(_, &at): &(&WorkerId, &Time)| at <= now;
        let mut due: Vec<WorkerId> =
            self.leaving.iter().filter(is_due).map(|(&id, _)| id).collect();
        due.sort_unstable();
        for id in due {
            self.leaving.remove(&id);
            let Some(process) = self.remotes.0.get(&id).and_then(|remote| remote.process.as_ref())
            else {
                continue;
            };
            if process.pidfd.has_exited().unwrap_or(true) {
                self.worker_gone(id);
            } else {
                let reason = "it closed its connection".to_owned();
                self.events.push_back(Event::Condemned { worker: id, reason });
            }
        }
    }

    pub(super) fn zygote_gone(&mut self, id: u64, reason: &str) {
        let Some(zygote) = self.zygotes.remove(&id) else { return };
        self.unwatch_zygote(&zygote);
        let _ = self.launches.send(Launch::Reap(id));
        if self.common_zygote == Some(id) {
            self.common_zygote = None;
        }
        for worker in zygote.unborn() {
            self.events.push_back(Event::StartFailed { worker, reason: reason.to_owned() });
        }
    }

    /// Let the zygote of a worker that has no process go on: it may have been stopped after it was asked.
    pub(super) fn nudge(&self, id: WorkerId) {
        let waits = self.remotes.0.get(&id).filter(|remote| remote.process.is_none());
        if let Some(zygote) = waits.and_then(|remote| self.zygotes.get(&remote.zygote)) {
            zygote.resume();
        }
    }

    fn unwatch_zygote(&self, zygote: &Zygote) {
        let _ = self.poller.remove(zygote.control());
        if let Some(process) = zygote.process() {
            let _ = self.poller.remove(process);
        }
    }

    /// A worker is given up that no process has come of. Where its zygote should long have made one,
    /// that is asked no more; what else it was asked for is started anew.
    fn doubt_zygote(&mut self, id: u64, worker: WorkerId) {
        if self.zygote_each {
            return;
        }
        let Some(zygote) = self.zygotes.get(&id) else { return };
        if !zygote.is_ready() {
            zygote.kill();
            self.zygote_gone(id, "the zygote was not ready in time");
        } else if zygote.owes(worker) && self.common_zygote == Some(id) {
            // Those that it has forked before go on.
            self.common_zygote = None;
        }
    }

    pub(super) fn forget(&mut self, id: WorkerId) {
        self.forget_process(id);
        self.release_ends(id);
        let Some(remote) = self.remotes.0.remove(&id) else { return };
        if let Some(pid) = remote.pid() {
            self.tell(Completion::WorkerDown(pid, remote.exit.unwrap_or(ExitStatus::Unknown)));
        } else {
            self.doubt_zygote(remote.zygote, id);
        }
        let _ = self.poller.remove(remote.socket().as_fd());
        let _ = self.poller.remove(remote.control().as_fd());
        self.leaving.remove(&id);
        if self.zygote_each
            && let Some(zygote) = self.zygotes.remove(&remote.zygote)
        {
            if zygote.is_ready() {
                zygote.dismiss();
            } else {
                // It may hang in what it imports, and the launcher would wait for its end.
                zygote.kill();
            }
            self.unwatch_zygote(&zygote);
            let _ = self.launches.send(Launch::Reap(remote.zygote));
        }
    }
}
