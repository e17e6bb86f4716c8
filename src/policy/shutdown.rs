//! How the pool ends.

use crate::ids::{TaskId, WorkerId};
use crate::outcome::Outcome;
use crate::policy::event::{Action, Shutdown};
use crate::policy::timers::Wake;
use crate::policy::worker::{Phase, Sent};

use super::pool::{Pool, Step};

impl<B, P> Pool<B, P> {
    pub(super) fn shut_down(&mut self, mode: Shutdown, step: &mut Step<'_, B, P>) {
        if self.shutdown >= Some(mode) {
            return;
        }
        self.shutdown = Some(mode);
        if mode == Shutdown::Drain {
            return;
        }
        // A worker that is being started has its task already, as far as its caller can tell.
        let begun = if mode == Shutdown::CancelWaiting { self.census.starting } else { 0 };
        let kept: Vec<TaskId> = (0..begun).map_while(|_| self.backlog.pop()).collect();
        while let Some(task) = self.backlog.pop() {
            self.end(task, Outcome::Cancelled, None, step);
        }
        for task in kept {
            let priority = self.tasks[&task].spec.priority;
            self.backlog.insert(priority, task);
        }
        let mut ids: Vec<WorkerId> = self.workers.keys().copied().collect();
        ids.sort_unstable();
        for id in ids {
            self.recall(id, 1, step);
            match mode {
                Shutdown::Drain | Shutdown::CancelWaiting => {}
                Shutdown::Terminate => self.cancel_running(id, libc::SIGTERM, step),
                Shutdown::CancelAll | Shutdown::Kill => {
                    self.cancel_running(id, libc::SIGKILL, step);
                }
            }
            if mode == Shutdown::Kill {
                self.kill_now(id, step);
            }
        }
    }

    fn cancel_running(&mut self, id: WorkerId, signal: i32, step: &mut Step<'_, B, P>) {
        let Some(worker) = self.workers.get(&id) else {
            return;
        };
        let running: Vec<Sent> = worker.queue.iter().copied().collect();
        for sent in running {
            self.cancel(sent.task, Some(signal), step);
            // Its caller may have given it up long before, and let it run.
            self.stop_task(id, sent.seq, signal, step);
        }
    }

    /// When the pool is closed and nothing is left to do, send the workers home.
    pub(super) fn wind_down(&mut self, step: &mut Step<'_, B, P>) {
        if self.shutdown.is_none() || self.terminated || !self.tasks.is_empty() {
            return;
        }
        if self.census.busy == 0 {
            let mut ids: Vec<WorkerId> = self.workers.keys().copied().collect();
            ids.sort_unstable();
            for id in ids {
                self.send_home(id, step);
            }
        }
        if self.workers.is_empty() {
            self.terminated = true;
            // Nobody is started any more, so no back-off need be waited for.
            self.timers.disarm(Wake::Start);
            step.act(Action::Terminated);
        }
    }

    fn send_home(&mut self, id: WorkerId, step: &mut Step<'_, B, P>) {
        match self.workers[&id].phase {
            // It has run nothing, so nothing in it needs an ending.
            Phase::Starting { .. } => self.kill_now(id, step),
            Phase::Ready => self.retire(id, step),
            Phase::Retiring { .. } | Phase::Stopping(_) => {}
        }
    }
}
