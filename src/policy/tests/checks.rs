//! What must hold after each event, whatever happened before.

use crate::ids::{TaskId, WorkerId};
use crate::policy::census::Census;
use crate::policy::event::Shutdown;
use crate::policy::stopping::STACK_LIMIT;
use crate::policy::timers::Wake;
use crate::policy::worker::Phase;
use crate::time::Time;

use super::model::Running;
use super::sim::{End, Sim, ms};

impl Sim {
    /// Everything that must always hold.
    pub fn check(&mut self) {
        self.check_counts();
        self.check_places();
        self.check_progress();
        self.check_deadlines();
        self.check_starts();
        self.check_size();
    }

    /// The counts are what counting anew gives.
    fn check_counts(&self) {
        let pool = &self.pool;
        let mut census = Census::default();
        for worker in pool.workers.values() {
            census.add(worker, pool.config.max_tasks_per_child);
        }
        assert_eq!(format!("{census:?}"), format!("{:?}", pool.census));
        let idle =
            pool.workers.values().filter(|worker| worker.takes_tasks() && worker.queue.is_empty());
        assert_eq!(idle.count(), pool.idle.len(), "idle workers");
        for (since, id) in &pool.idle {
            assert_eq!(pool.workers[id].idle_since, *since);
        }
        assert!(pool.roomy.len() <= pool.workers.len(), "the queue of workers with room grows");
        assert_eq!(pool.workers.len(), self.world.processes.len());

        let statistics = pool.statistics();
        let pending = self.tasks.values().filter(|task| task.end.is_none()).count();
        let failed = self
            .tasks
            .values()
            .filter(|task| !matches!(task.end, None | Some(End::Returned | End::Cancelled)));
        assert_eq!(statistics.tasks_received, self.tasks.len() as u64);
        assert_eq!(statistics.tasks_failed, failed.count() as u64);
        assert_eq!(pool.tasks.len(), pending);
        assert_eq!(pool.terminated, self.terminated);
    }

    /// Each task is at one place.
    fn check_places(&self) {
        let pool = &self.pool;
        let placed = pool.tasks.values().filter(|record| record.place.is_some()).count();
        assert_eq!(pool.backlog.len(), pool.tasks.len() - placed, "tasks that wait");
        assert_eq!(pool.backlog.len(), self.waiting.len(), "tasks that wait, by the actions");
        for (task, record) in &pool.tasks {
            if let Some((id, seq)) = record.place {
                let with = pool.workers[&id]
                    .queue
                    .iter()
                    .filter(|sent| sent.seq == seq && sent.task == *task)
                    .count();
                assert_eq!(with, 1, "{task:?} is not where it is said to be");
            }
        }
        for (id, process) in &self.world.processes {
            if let Some(Running { seq, task, .. }) = process.running
                && !process.killed
                && !process.to_blame
            {
                assert!(
                    pool.workers[id].queue.iter().any(|sent| sent.seq == seq),
                    "nobody remembers that {task:?} runs"
                );
            }
        }
    }

    /// Something is bound to happen, or there is nothing to wait for.
    fn check_progress(&self) {
        let pool = &self.pool;
        let start_awaited = pool.timers.is_armed(Wake::Start);
        for (id, worker) in &pool.workers {
            let resting = worker.takes_tasks() && worker.queue.is_empty();
            assert!(
                resting || pool.timers.is_armed(Wake::Worker(*id)),
                "nothing is due about {worker:?}"
            );
        }
        if !pool.backlog.is_empty() {
            let busy = pool.census.busy;
            assert!(
                pool.idle.is_empty() || busy >= pool.config.max_workers || pool.few_suffice(),
                "a task and a worker wait for each other"
            );
            if pool.few_suffice() && busy <= pool.config.max_workers {
                self.check_brisk();
            }
            assert!(
                busy > 0 || pool.census.starting > 0 || start_awaited,
                "tasks wait for nothing"
            );
        }
        if pool.shutdown.is_none() && pool.census.live < pool.config.min_workers {
            // More follow as soon as it is known what became of these.
            let under_way = pool.census.unborn > 0;
            assert!(start_awaited || under_way, "there are too few workers");
        }
    }

    /// Tasks wait though somebody may be idle: every worker that is to run them has enough before it that
    /// it is noticed when one of those is long.
    fn check_brisk(&self) {
        let pool = &self.pool;
        for (id, worker) in &pool.workers {
            if worker.is_brisk(pool.config.max_tasks_per_child) {
                let full = worker.room(pool.config.max_tasks_per_child) == 0;
                assert!(
                    full,
                    "a task waits, and there is room for it: {worker:?}, {:?} are listed, {:?}",
                    pool.roomy, pool.census
                );
                let due = pool.timers.due(Wake::Worker(*id)).expect("a timer");
                assert!(
                    due <= self.now() + ms(101),
                    "a task waits, and nobody looks at {worker:?}"
                );
            }
        }
    }

    /// No task runs past its deadline and what a kill may take.
    fn check_deadlines(&self) {
        for process in
            self.world.processes.values().filter(|process| !process.killed && !process.to_blame)
        {
            let Some(Running { task, at, stamped, .. }) = process.running else {
                continue;
            };
            let Some(timeout) = self.tasks[&task].spec.limits.timeout else {
                continue;
            };
            let slack = ms(7)
                + STACK_LIMIT
                + self.pool.config.kill_grace_period
                + if stamped { ms(0) } else { ms(110) };
            let late = self.now().since(at + timeout + slack);
            assert!(late.is_zero(), "{task:?} runs {late:?} longer than it may");
        }
    }

    /// Nothing begins that should not.
    fn check_starts(&self) {
        for (task, starts) in &self.world.starts {
            let known = &self.tasks[task];
            let more = starts.len() - 1;
            assert!(more <= known.spec.limits.retries as usize, "{task:?} began too often");
            for start in &starts[..more] {
                assert!(
                    self.world.to_blame.contains(&start.worker),
                    "{task:?} began anew, but its worker did not die"
                );
            }
            if let Some(start) = starts.last().filter(|_| known.end.is_some()) {
                assert!(start.at <= known.ended, "{task:?} began after its end");
            }
        }
    }

    fn check_size(&mut self) {
        let busy = self.pool.census.busy;
        let max_workers = self.pool.config.max_workers;
        assert!(
            busy <= max_workers.max(self.busy_before),
            "{busy} workers have tasks, of {max_workers}"
        );
        self.busy_before = busy;
    }

    /// A task is sent: it must be the first of those that wait.
    pub fn check_order(&mut self, task: TaskId) {
        let first = self.waiting.pop_first().map(|(_, first)| first);
        assert_eq!(first, Some(task), "a task was sent before its turn");
    }

    /// Somebody is told that a task began.
    pub fn check_began(&mut self, task: TaskId, worker: WorkerId) {
        let starts = self.world.starts.get(&task).map_or(&[][..], Vec::as_slice);
        assert_eq!(
            starts.last().map(|start| start.worker),
            Some(worker),
            "{task:?} is said to have begun"
        );
        let begun = starts.len();
        let known = self.tasks.get_mut(&task).expect("a task that was submitted");
        assert!(known.watched && known.told < begun && known.end.is_none(), "{known:?} is told of");
        known.told = begun;
    }

    /// A worker may only be sent home with empty hands.
    pub fn check_retire(&self, id: WorkerId) {
        assert!(self.pool.workers[&id].queue.is_empty(), "{id:?} retires with tasks");
        assert!(matches!(
            self.pool.workers[&id].phase,
            Phase::Retiring { .. } | Phase::Stopping(_)
        ));
    }

    /// A task ends: the cause must be true.
    pub fn check_end(&self, task: TaskId, end: End, worker: Option<WorkerId>) {
        let known = &self.tasks[&task];
        assert_eq!(known.end, None, "{task:?} ends twice");
        let limits = known.spec.limits;
        let starts = self.world.starts.get(&task).map_or(&[][..], Vec::as_slice);
        let blamed = |id: &WorkerId| self.world.to_blame.contains(id);
        match end {
            End::Returned | End::Raised => assert!(!starts.is_empty()),
            End::TimedOut => {
                let timeout = limits.timeout.expect("a timeout");
                let began = starts.last().map_or(known.submitted, |start| start.at);
                assert!(began + timeout <= self.now(), "{task:?} timed out early");
                // At worst the worker was stopped between its claim and its stamp, so that its start
                // is only believed after 100 ms, and it never writes its stack.
                let slack = ms(12) + self.pool.config.kill_grace_period + ms(100) + STACK_LIMIT;
                assert!(self.now() <= began + timeout + slack, "{task:?} timed out late");
            }
            End::MemoryExceeded => assert!(known.over_memory, "nobody saw {task:?} use too much"),
            End::WorkerDied { attempts } => {
                assert_eq!(attempts as usize, starts.len());
                let closing = self.closed >= Some(Shutdown::CancelWaiting);
                assert!(
                    attempts == limits.retries + 1 || closing,
                    "{task:?} was given up too early"
                );
                assert!(
                    worker.as_ref().is_some_and(blamed),
                    "{task:?} died with a worker that was killed for another"
                );
            }
            End::Condemned => {
                assert!(!starts.is_empty());
                assert!(
                    worker.as_ref().is_some_and(blamed),
                    "{task:?} ended with a worker that did no wrong"
                );
            }
            End::InitializerFailed => {
                assert!(
                    self.pool.config.fail_on_initializer_error && self.initializer_failures > 0
                );
            }
            End::NotStarted => {
                let ready =
                    self.pool.workers.values().filter(|worker| worker.takes_tasks()).count();
                assert_eq!(ready, 0, "there are workers that could run {task:?}");
            }
            End::Cancelled => {
                let closed = self.closed >= Some(Shutdown::CancelWaiting) || self.terminated;
                assert!(known.given_up || closed, "nobody cancelled {task:?}");
            }
        }
    }

    /// At the end of a history nothing is left of it.
    pub fn check_at_rest(&self) {
        let pool = &self.pool;
        for (task, known) in &self.tasks {
            assert!(known.end.is_some(), "{task:?} never ended: {known:?}");
            let ran = !matches!(
                known.end,
                Some(End::Cancelled | End::InitializerFailed | End::NotStarted)
            );
            assert!(
                !known.watched || !ran || known.told == self.starts_of(*task),
                "nobody was told of {task:?}"
            );
        }
        assert!(pool.tasks.is_empty() && pool.backlog.is_empty());
        assert_eq!(pool.next_timer(), None, "an idle pool wakes up");
        assert_eq!(pool.workers.len(), pool.idle.len());
        let launched = self.tasks.keys().filter(|task| self.count_sent(**task)).count();
        assert_eq!(pool.statistics().tasks_launched, launched as u64);
        if self.terminated {
            assert!(pool.workers.is_empty() && pool.roomy.is_empty());
        } else {
            assert_eq!(
                pool.workers.len(),
                pool.config.min_workers,
                "an idle pool has its least size"
            );
        }
    }

    fn count_sent(&self, task: TaskId) -> bool {
        self.did
            .iter()
            .any(|(_, did)| matches!(did, super::sim::Did::Send(_, sent) if *sent == task))
    }

    /// How long ago something was.
    pub fn since(&self, then: Time) -> std::time::Duration {
        self.now().since(then)
    }
}
