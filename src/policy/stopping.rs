//! Ending a worker against its will.
//!
//! The order is always the same: what the worker has not begun is taken back, so that nothing else
//! can be hit; the stack is written down; exit handlers of user code get their grace; the tree is
//! killed; and only then does the task end. Each step has a timer, so a worker that does not
//! cooperate only loses what it could have had.

use std::collections::VecDeque;
use std::time::Duration;

use crate::ids::{TaskId, WorkerId};
use crate::outcome::{Cause, Failure, Outcome};
use crate::policy::event::Action;
use crate::policy::timers::Wake;
use crate::policy::worker::{Phase, Sent, Step as StopStep, Stop};

use super::pool::{Pool, Step};

/// How long a worker has to write its stack down. One that can says so at once, and one that is stopped
/// is not asked; so much later are killed only those that wait for a CPU, or for the kernel.
pub(super) const STACK_LIMIT: Duration = Duration::from_millis(200);

/// How long a killed process may take to go before it is killed once more.
const KILL_AGAIN: Duration = Duration::from_secs(1);

/// After so many times the end of a closed pool does not wait for it any longer.
const KILLS: u32 = 10;

impl<B, P> Pool<B, P> {
    /// Stop the running task `head` of a worker, because of `cause`.
    pub(super) fn stop_for(
        &mut self,
        id: WorkerId,
        head: Sent,
        cause: Cause<P>,
        step: &mut Step<'_, B, P>,
    ) {
        if !self.recall(id, 1, step) {
            return self.collect_soon(id, step); // The worker is past it.
        }
        self.begin_stop(id, Some(cause), Some(head.task), StopStep::Stack, step);
    }

    /// Stop the task with number `seq`, which its caller has given up, with `signal`.
    pub(super) fn stop_task(
        &mut self,
        id: WorkerId,
        seq: u32,
        signal: i32,
        step: &mut Step<'_, B, P>,
    ) {
        let Some(worker) = self.workers.get(&id) else {
            return;
        };
        if let Phase::Stopping(stopping) = &worker.phase {
            if stopping.step == StopStep::Signalled && signal == libc::SIGKILL {
                self.advance_stop(id, step);
            }
            return;
        }
        let Some(position) = worker.queue.iter().position(|sent| sent.seq == seq) else {
            return;
        };
        if !self.recall(id, position + 1, step) {
            return; // The worker is past it already, and must not lose its neighbour.
        }
        if signal == libc::SIGKILL {
            self.begin_stop(id, None, None, StopStep::ExitHandlers, step);
        } else {
            step.act(Action::Signal { worker: id, signal });
            self.begin_stop(id, None, None, StopStep::Signalled, step);
        }
    }

    /// A worker is beyond trust.
    pub(super) fn condemned(&mut self, id: WorkerId, reason: &str, step: &mut Step<'_, B, P>) {
        let Some(worker) = self.workers.get(&id) else {
            return;
        };
        if self.is_killed(id) {
            return;
        }
        step.log(log::Level::Warn, format!("{} is killed: {reason}", name(worker.pid)));
        step.act(Action::Kill(id));
        let young = self.is_young(id, step.now);
        // A stop that was begun before decides how its task ends.
        self.end_victim(id, step);
        let useless = !self.lose_tasks(id, Some(reason), step) && young;
        self.begin_stop(id, None, None, StopStep::Killed, step);
        if useless {
            self.start_went_wrong(reason, step);
        }
    }

    /// A worker neither began its task nor showed any other life.
    pub(super) fn stop_stuck(&mut self, id: WorkerId, step: &mut Step<'_, B, P>) {
        let reason = "it did not begin a task for seconds";
        let useless = self.workers.get(&id).is_some_and(|worker| worker.tasks_done == 0);
        self.condemned(id, reason, step);
        if useless {
            self.start_went_wrong(reason, step);
        }
    }

    /// Whether a worker was sent SIGKILL.
    pub(super) fn is_killed(&self, id: WorkerId) -> bool {
        let phase = self.workers.get(&id).map(|worker| &worker.phase);
        matches!(phase, Some(Phase::Stopping(stopping)) if stopping.step == StopStep::Killed)
    }

    /// Kill a worker at once, whatever it does.
    pub(super) fn kill_now(&mut self, id: WorkerId, step: &mut Step<'_, B, P>) {
        step.act(Action::Kill(id));
        self.begin_stop(id, None, None, StopStep::Killed, step);
    }

    fn begin_stop(
        &mut self,
        id: WorkerId,
        cause: Option<Cause<P>>,
        task: Option<TaskId>,
        first: StopStep,
        step: &mut Step<'_, B, P>,
    ) {
        self.leave_idle(id);
        let until = step.now;
        let stopping = Stop { cause, task, step: first, until, kills: 0 };
        if self.update(id, |worker| worker.phase = Phase::Stopping(stopping)).is_some() {
            self.timers.disarm(Wake::Worker(id));
            self.enter_stop(id, first, step);
        }
    }

    /// Go on with a stop whose present step is over.
    pub(super) fn advance_stop(&mut self, id: WorkerId, step: &mut Step<'_, B, P>) {
        let Some(worker) = self.workers.get(&id) else {
            return;
        };
        let Phase::Stopping(stopping) = &worker.phase else {
            return;
        };
        let next = match stopping.step {
            StopStep::Stack => StopStep::ExitHandlers,
            StopStep::ExitHandlers | StopStep::Signalled => {
                step.act(Action::Kill(id));
                StopStep::Killed
            }
            StopStep::Killed => return self.kill_again(id, step),
        };
        self.enter_stop(id, next, step);
    }

    /// A worker that was killed is still there.
    fn kill_again(&mut self, id: WorkerId, step: &mut Step<'_, B, P>) {
        let Some((pid, kills)) = self.update(id, |worker| {
            let Phase::Stopping(stopping) = &mut worker.phase else {
                return (worker.pid, 0);
            };
            stopping.kills += 1;
            (worker.pid, stopping.kills)
        }) else {
            return;
        };
        if pid.is_none() {
            // Its start was asked for, and never answered.
            self.remove(id, step);
        } else if self.shutdown.is_some() && kills >= KILLS {
            // The kernel holds on to it, in an uninterruptible sleep. The pool can't wait for ever.
            step.log(
                log::Level::Error,
                format!("{} can't be killed and is left behind", name(pid)),
            );
            self.lose_tasks(id, None, step);
            self.remove(id, step);
        } else {
            step.act(Action::Kill(id));
            self.enter_stop(id, StopStep::Killed, step);
        }
    }

    fn enter_stop(&mut self, id: WorkerId, next: StopStep, step: &mut Step<'_, B, P>) {
        let wait = match next {
            StopStep::Stack => {
                step.act(Action::CaptureStack(id));
                STACK_LIMIT
            }
            StopStep::ExitHandlers if step.claims.has_exit_handlers(id) => {
                step.act(Action::RunExitHandlers(id));
                self.config.kill_grace_period
            }
            StopStep::ExitHandlers => {
                step.act(Action::Kill(id));
                return self.enter_stop(id, StopStep::Killed, step);
            }
            StopStep::Signalled => self.config.kill_grace_period,
            StopStep::Killed => KILL_AGAIN,
        };
        let until = step.now + wait;
        self.update(id, |worker| {
            if let Phase::Stopping(stopping) = &mut worker.phase {
                stopping.step = next;
                stopping.until = until;
            }
        });
        self.timers.arm(Wake::Worker(id), until);
        if next == StopStep::Killed {
            self.end_victim(id, step);
            self.drop_ended(id);
        }
    }

    /// End the task that a worker is stopped for, if that has not been done.
    pub(super) fn end_victim(&mut self, id: WorkerId, step: &mut Step<'_, B, P>) {
        let Some(worker) = self.workers.get_mut(&id) else {
            return;
        };
        let Phase::Stopping(stopping) = &mut worker.phase else {
            return;
        };
        if let Some((task, cause)) = stopping.task.zip(stopping.cause.take()) {
            // It may be watched since after its time was up.
            self.tell_begun(task, id, step);
            let failure = Failure { cause, report: None };
            self.end(task, Outcome::Failed(Box::new(failure)), Some(id), step);
        }
    }

    /// Nothing of what a killed worker ran goes on, so it is no longer busy with it, even when the
    /// kernel takes its time.
    fn drop_ended(&mut self, id: WorkerId) {
        let Some(worker) = self.workers.get(&id) else {
            return;
        };
        let open: VecDeque<Sent> = worker
            .queue
            .iter()
            .filter(|sent| self.tasks.contains_key(&sent.task))
            .copied()
            .collect();
        self.update(id, |worker| worker.queue = open);
    }

    pub(super) fn stack_done(&mut self, id: WorkerId, step: &mut Step<'_, B, P>) {
        self.step_done(id, StopStep::Stack, step);
    }

    pub(super) fn exit_handlers_done(&mut self, id: WorkerId, step: &mut Step<'_, B, P>) {
        self.step_done(id, StopStep::ExitHandlers, step);
    }

    fn step_done(&mut self, id: WorkerId, done: StopStep, step: &mut Step<'_, B, P>) {
        let waits = self.workers.get(&id).is_some_and(
            |worker| matches!(&worker.phase, Phase::Stopping(stopping) if stopping.step == done),
        );
        if waits {
            self.advance_stop(id, step);
        }
    }
}

/// A worker in a log line.
pub(super) fn name(pid: Option<u32>) -> String {
    pid.map_or_else(|| "a worker without a process".into(), |pid| format!("worker {pid}"))
}
