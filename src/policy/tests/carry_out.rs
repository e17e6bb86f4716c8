//! What the supervisor does with the answers of the policy.

use crate::ids::{TaskId, WorkerId};
use crate::outcome::{Cause, Outcome};
use crate::policy::event::Action;

use super::model::Process;
use super::sim::{Bag, Did, End, Sim};

impl Sim {
    pub fn apply(&mut self, actions: Vec<Action<Bag, Vec<u8>>>) {
        for action in actions {
            if let Some(did) = self.carry_out(action) {
                self.did.push((self.world.now, did));
            }
        }
    }

    fn carry_out(&mut self, action: Action<Bag, Vec<u8>>) -> Option<Did> {
        assert!(
            !self.terminated || matches!(action, Action::Log(..) | Action::End { .. }),
            "{action:?} after the end"
        );
        Some(match action {
            Action::Start(id) => {
                assert!(
                    self.world.processes.insert(id, Process::default()).is_none(),
                    "{id:?} is started twice"
                );
                Did::Start(id)
            }
            Action::Send { worker, task, seq } => {
                self.check_order(task);
                self.world.process(worker).receive(seq, task);
                Did::Send(worker, task)
            }
            Action::Recalled(task) => {
                self.waiting.insert((self.tasks[&task].spec.priority, task));
                Did::Recalled(task)
            }
            Action::Began { task, worker } => {
                self.check_began(task, worker);
                Did::Began(task)
            }
            Action::Retire(id) => {
                self.check_retire(id);
                self.world.process(id).retiring = true;
                Did::Retire(id)
            }
            Action::CaptureStack(id) => {
                self.world.process(id).wants_stack = true;
                Did::CaptureStack(id)
            }
            Action::RunExitHandlers(id) => {
                self.world.process(id).wants_exit_handlers = true;
                Did::RunExitHandlers(id)
            }
            Action::Interrupt { worker, seq } => {
                assert!(self.soft.insert((worker, seq)), "a soft timeout is raised twice");
                Did::Interrupt(worker)
            }
            Action::InterruptAgain { worker, seq } => {
                assert!(self.soft.contains(&(worker, seq)), "it was not raised before");
                Did::InterruptAgain(worker)
            }
            Action::Signal { worker, signal } => {
                self.world.process(worker);
                Did::Signal(worker, signal)
            }
            Action::Kill(id) => {
                self.world.process(id).killed = true;
                Did::Kill(id)
            }
            Action::Nudge(id) => Did::Nudge(id),
            Action::Collect(id) => {
                let ring = std::mem::take(&mut self.world.process(id).ring);
                self.due.extend(
                    ring.into_iter().map(|(seq, task)| Self::result(id, seq, task, false, false)),
                );
                Did::Collect(id)
            }
            Action::Sample { worker, seq, .. } => {
                self.samples.push((worker, seq));
                Did::Sample(worker)
            }
            Action::End { baggage: Bag(task), outcome, worker } => {
                Did::End(task, self.end(task, &outcome, worker))
            }
            Action::Forget(id) => {
                let process = self.world.processes.remove(&id).expect("a worker that was started");
                assert!(
                    process.gone || process.killed || !process.forked,
                    "{id:?} is forgotten, but lives"
                );
                self.world.forgotten.insert(id);
                Did::Forget(id)
            }
            Action::Log(..) => return None,
            Action::Terminated => {
                self.terminated = true;
                Did::Terminated
            }
        })
    }

    fn end(&mut self, task: TaskId, outcome: &Outcome<Vec<u8>>, worker: Option<WorkerId>) -> End {
        if let Some(id) = worker {
            self.world.process(id);
        }
        let end = match outcome {
            Outcome::Returned(payload) | Outcome::Raised(payload) => {
                assert_eq!(
                    payload[..],
                    task.get().to_le_bytes(),
                    "a task got the result of another"
                );
                if matches!(outcome, Outcome::Returned(_)) { End::Returned } else { End::Raised }
            }
            Outcome::Cancelled => End::Cancelled,
            Outcome::Failed(failure) => match failure.cause {
                Cause::TimedOut { timeout } => {
                    assert_eq!(self.tasks[&task].spec.limits.timeout, Some(timeout));
                    End::TimedOut
                }
                Cause::MemoryExceeded { .. } => End::MemoryExceeded,
                Cause::WorkerDied { attempts } => End::WorkerDied { attempts },
                Cause::Condemned { .. } => End::Condemned,
                Cause::InitializerFailed { .. } => End::InitializerFailed,
                Cause::NotStarted { .. } => End::NotStarted,
                Cause::PoolFailed { .. } => unreachable!("only a supervisor says so"),
            },
        };
        self.check_end(task, end, worker);
        let now = self.now();
        let known = self.tasks.get_mut(&task).expect("a task that was submitted");
        self.waiting.remove(&(known.spec.priority, task));
        known.end = Some(end);
        known.ended = now;
        end
    }
}
