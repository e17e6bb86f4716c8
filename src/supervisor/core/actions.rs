//! What the policy wants done, as system calls and messages.

use std::sync::Arc;

use crate::exit_status::ExitStatus;
use crate::ids::{TaskId, WorkerId};
use crate::policy::event::{Action, Event};
use crate::supervisor::messages::{Command, Completion, Outcome};
use crate::supervisor::remote::Remote;
use crate::supervisor::report;
use crate::sys::process_tree::Signalled;
use crate::sys::{clock, memory, signals};
use crate::wire::frame::{Header, Kind};
use crate::wire::payload::Payload;
use crate::wire::protocol::{soft_timeout_signal, stack_signal};

use super::{Baggage, CLEARING_GRACE, Core, Debt};

impl<S: Send + Sync + 'static> Core<S> {
    pub(super) fn apply(&mut self, action: Action<Baggage<S>, Payload>) {
        match action {
            Action::Start(id) => self.start(id),
            Action::Send { worker, task, seq } => self.send(worker, task, seq),
            Action::Recalled(task) => {
                if let Some(baggage) = self.pool.baggage(task) {
                    baggage.handle.set_pid(None);
                    if !std::mem::replace(&mut baggage.waits, true) {
                        self.gate.enter_again();
                    }
                }
            }
            Action::Began { task, worker } => self.tell_begun(task, worker),
            Action::Retire(id) => {
                self.with_remote(id, |remote| remote.outbox.push_bare(Header::bare(Kind::Retire)));
            }
            Action::CaptureStack(id) => self.capture_stack(id),
            Action::RunExitHandlers(id) => {
                self.owing.push((id, Debt::ExitHandlers));
                self.with_remote(id, |remote| remote.run_exit_handlers());
            }
            Action::Interrupt { worker, seq } => self.interrupt(worker, seq),
            Action::InterruptAgain { worker, seq } => {
                self.signal_by(worker, soft_timeout_signal(), |remote| remote.interrupt_again(seq));
            }
            Action::Signal { worker, signal } => {
                self.signal_by(worker, signal, |remote| remote.signal(signal));
            }
            Action::Kill(id) => self.kill(id),
            Action::Nudge(id) => self.nudge(id),
            Action::Collect(id) => self.collect(id),
            Action::Sample { worker, seq, limit_bytes } => self.sample(worker, seq, limit_bytes),
            Action::End { baggage, outcome, worker } => self.end(baggage, outcome, worker),
            Action::Forget(id) => self.forget(id),
            Action::Log(level, message) => self.tell(Completion::Log(level, message)),
            Action::Terminated => {}
        }
    }

    pub(super) fn with_remote(&mut self, id: WorkerId, act: impl FnOnce(&mut Remote)) {
        let Some(remote) = self.remotes.0.get_mut(&id) else { return };
        act(remote);
        if !remote.outbox.is_empty() && !std::mem::replace(&mut remote.is_dirty, true) {
            self.dirty.push(id);
        }
    }

    /// Tell the workers that have run nothing yet of their environment, if it is another one now.
    pub(super) fn set_environ(&mut self, changed: Option<Payload>) {
        if let Some(changed) = changed {
            self.environ = Some(Arc::new(changed));
        }
        let Some(environ) = self.environ.clone() else { return };
        let ids: Vec<WorkerId> = self.remotes.0.keys().copied().collect();
        for id in ids {
            self.with_remote(id, |remote| remote.update_environ(&environ));
        }
    }

    pub(super) fn send(&mut self, id: WorkerId, task: TaskId, seq: u32) {
        let Some(baggage) = self.pool.baggage(task) else { return };
        if std::mem::take(&mut baggage.waits) {
            self.gate.leave();
        }
        let payload = Arc::clone(&baggage.payload);
        let Some(remote) = self.remotes.0.get_mut(&id) else { return };
        if let Some(environ) = &self.environ {
            remote.update_environ(environ);
        }
        let amid_frame = remote.is_amid_frame();
        self.with_remote(id, |remote| remote.send_task(seq, &payload));
        if amid_frame && self.pool.worker(id).is_some_and(|worker| worker.queue.len() == 1) {
            // A task has written to the connection; what this one answers would be taken for the rest.
            let reason = "it began a frame and did not finish it".to_owned();
            self.events.push_back(Event::Condemned { worker: id, reason });
        }
    }

    pub(super) fn tell_begun(&mut self, task: TaskId, worker: WorkerId) {
        let pid = self.remotes.0.get(&worker).and_then(Remote::pid);
        if let Some((baggage, pid)) = self.pool.baggage(task).zip(pid) {
            let handle = Arc::clone(&baggage.handle);
            handle.set_pid(Some(pid));
            self.tell(Completion::Began(handle, pid));
        }
    }

    pub(super) fn interrupt(&mut self, id: WorkerId, seq: u32) {
        let head = self.pool.worker(id).and_then(|worker| worker.queue.front());
        let sent = head.copied();
        // Told first, so that it is known before the task ends of it.
        if let Some(baggage) =
            sent.filter(|sent| sent.seq == seq).and_then(|sent| self.pool.baggage(sent.task))
        {
            let handle = Arc::clone(&baggage.handle);
            self.tell(Completion::Interrupted(handle));
        }
        self.signal_by(id, soft_timeout_signal(), |remote| remote.interrupt(seq));
    }

    /// Signal a worker, or have its zygote do so where this process may not. Returns whether it is sent.
    fn signal_by(
        &mut self,
        id: WorkerId,
        signal: i32,
        act: impl FnOnce(&mut Remote) -> Signalled,
    ) -> bool {
        let Some(remote) = self.remotes.0.get_mut(&id) else { return false };
        match act(remote) {
            Signalled::Sent(_) => true,
            Signalled::Gone => false,
            Signalled::Refused => self
                .zygotes
                .get(&remote.zygote)
                .is_some_and(|zygote| zygote.signal_worker(id, signal)),
        }
    }

    pub(super) fn end(
        &mut self,
        baggage: Baggage<S>,
        mut outcome: Outcome,
        worker: Option<WorkerId>,
    ) {
        if baggage.waits {
            self.gate.leave();
        }
        if let Some((id, remote)) =
            worker.and_then(|id| self.remotes.0.get_mut(&id).map(|remote| (id, remote)))
        {
            baggage.handle.set_pid(remote.pid());
            let is_killed = matches!(outcome, Outcome::Failed(_)) && remote.exit.is_none();
            if is_killed && remote.awaits_kill.is_some() && remote.survives.is_none() {
                // Its code may still run: it ends when the worker has, or can't be killed.
                self.held_ends.entry(id).or_default().push((baggage.handle, outcome));
                return;
            }
            report::describe(&mut outcome, remote, &mut self.oom);
        }
        self.deliver(baggage.handle, outcome);
    }

    /// Deliver the ends that waited for what becomes of a worker.
    pub(super) fn release_ends(&mut self, id: WorkerId) {
        for (handle, mut outcome) in self.held_ends.remove(&id).unwrap_or_default() {
            if let Some(remote) = self.remotes.0.get_mut(&id) {
                report::describe(&mut outcome, remote, &mut self.oom);
            }
            self.deliver(handle, outcome);
        }
    }

    /// A worker can't be killed by this process, nor by its zygote.
    pub(super) fn kill_refused(&mut self, id: WorkerId, reason: &str) {
        let Some(remote) = self.remotes.0.get_mut(&id) else { return };
        if remote.survives.is_none() {
            let pid = remote.pid().unwrap_or_default();
            remote.survives = Some(reason.to_owned());
            let message = format!("worker {pid} can't be killed: {reason}");
            self.tell(Completion::Log(log::Level::Error, message));
        }
        self.release_ends(id);
    }

    pub(super) fn capture_stack(&mut self, id: WorkerId) {
        let Some(remote) = self.remotes.0.get_mut(&id) else { return };
        remote.rss_bytes = remote.pid().and_then(memory::rss_bytes).or(remote.rss_bytes);
        if self.signal_by(id, stack_signal(), Remote::ask_for_stack) {
            self.owing.push((id, Debt::Stack));
        } else {
            self.events.push_back(Event::StackDone(id));
        }
    }

    pub(super) fn kill(&mut self, id: WorkerId) {
        self.kill_process(id);
        let Some(remote) = self.remotes.0.get(&id).filter(|remote| remote.process.is_none()) else {
            return;
        };
        let withdrawn =
            self.zygotes.get_mut(&remote.zygote).is_none_or(|zygote| zygote.withdraw(id));
        if withdrawn {
            // There is no process of it and there will be none.
            self.events.push_back(Event::Exited { worker: id, exit: ExitStatus::Unknown });
        }
    }

    /// Kill the process of a worker, or have its zygote kill it.
    pub(super) fn kill_process(&mut self, id: WorkerId) {
        let Some(remote) = self.remotes.0.get_mut(&id) else { return };
        if remote.kill() != Signalled::Refused {
            return;
        }
        // The policy kills again what is still there after a second.
        let now = clock::now();
        let asked = *remote.awaits_kill.get_or_insert(now);
        let zygote = self.zygotes.get(&remote.zygote);
        if !zygote.is_some_and(|zygote| zygote.signal_worker(id, libc::SIGKILL)) {
            self.kill_refused(id, "this process may not signal it, and its zygote is gone");
        } else if now.since(asked) > CLEARING_GRACE {
            self.kill_refused(id, "this process may not signal it, and its zygote does not answer");
        }
    }

    pub(super) fn sample(&mut self, id: WorkerId, seq: u32, limit_bytes: Option<u64>) {
        let Some(remote) = self.remotes.0.get_mut(&id) else { return };
        let Some(pid) = remote.pid() else { return };
        remote.rss_bytes = memory::rss_bytes(pid).or(remote.rss_bytes);
        if let Some(limit) = limit_bytes {
            let used_bytes = memory::tree_rss_bytes(pid);
            if used_bytes > limit {
                self.judge_memory(id, seq, pid, limit, used_bytes);
            }
        }
    }

    /// A tree is over its limit by what is resident, where pages that are shared count again and
    /// again. To share them out takes the kernel's lock on each process's memory, which may block.
    pub(super) fn judge_memory(
        &mut self,
        id: WorkerId,
        seq: u32,
        pid: u32,
        limit: u64,
        resident_bytes: u64,
    ) {
        let inbox = self.inbox_sender.clone();
        let waker = Arc::clone(&self.waker);
        let judge = move || {
            let used_bytes = memory::tree_bytes(pid, limit);
            let _ = inbox.send(Command::MemoryJudged { worker: id, seq, used_bytes });
            waker.wake();
        };
        if signals::spawn_blocked("deadpool-memory", judge).is_err() {
            self.events.push_back(Event::MemorySampled {
                worker: id,
                seq,
                used_bytes: resident_bytes,
            });
        }
    }
}
