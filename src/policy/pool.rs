//! The state of a pool, and the events that change it.

use std::collections::{BTreeSet, VecDeque};

use rustc_hash::FxHashMap;

use crate::ids::{TaskId, WorkerId};
use crate::outcome::Outcome;
use crate::policy::backlog::Backlog;
use crate::policy::config::PoolConfig;
use crate::policy::event::{Action, Claims, Event, Shutdown};
use crate::policy::statistics::Statistics;
use crate::policy::timers::{Timers, Wake};
use crate::policy::worker::Worker;
use crate::task::TaskSpec;
use crate::time::Time;

use super::backoff::Backoff;
use super::census::Census;
use super::pace::Pace;

/// The state of a pool. `B` is what the caller keeps with each task.
#[derive(Debug)]
pub struct Pool<B, P> {
    pub(super) config: PoolConfig,
    pub(super) workers: FxHashMap<WorkerId, Worker<P>>,
    pub(super) tasks: FxHashMap<TaskId, Record<B>>,
    pub(super) backlog: Backlog,
    pub(super) timers: Timers,
    // Idle workers by the time since when: the last is the warmest and gets the next task.
    pub(super) idle: BTreeSet<(Time, WorkerId)>,
    // Busy workers that may have room, the next to be filled first; entries may be stale.
    pub(super) roomy: VecDeque<WorkerId>,
    pub(super) census: Census,
    pub(super) pace: Pace,
    pub(super) counters: Statistics,
    // The task that was submitted last.
    pub(super) newest: TaskId,
    pub(super) next_worker: u64,
    /// Workers to be started whether anything wants them or not.
    pub(super) owed: usize,
    pub(super) backoff: Backoff,
    pub(super) shutdown: Option<Shutdown>,
    pub(super) terminated: bool,
}

/// A task that has not ended.
#[derive(Debug)]
pub(super) struct Record<B> {
    pub(super) spec: TaskSpec,
    pub(super) baggage: B,
    // The worker that has it, and its number there; `None` while it waits.
    pub(super) place: Option<(WorkerId, u32)>,
    // How often it began on a worker that then died.
    pub(super) deaths: u32,
    pub(super) launched: bool,
    pub(super) watch: Watch,
}

/// Whether somebody is to be told when a task begins.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Watch {
    Unwanted,
    Wanted,
    /// It was told of this start; there may be another if the worker dies.
    Told,
}

/// What every step of the policy works with.
pub(super) struct Step<'a, B, P> {
    pub(super) now: Time,
    pub(super) claims: &'a mut dyn Claims,
    pub(super) actions: &'a mut Vec<Action<B, P>>,
}

impl<B, P> Step<'_, B, P> {
    pub(super) fn act(&mut self, action: Action<B, P>) {
        self.actions.push(action);
    }

    pub(super) fn log(&mut self, level: log::Level, message: String) {
        self.act(Action::Log(level, message));
    }
}

impl<B, P> Pool<B, P> {
    /// A pool without workers; [`Pool::start`] brings it to its full size.
    pub fn new(config: PoolConfig) -> Self {
        Self {
            config,
            workers: FxHashMap::default(),
            tasks: FxHashMap::default(),
            backlog: Backlog::default(),
            timers: Timers::default(),
            idle: BTreeSet::new(),
            roomy: VecDeque::new(),
            census: Census::default(),
            pace: Pace::default(),
            counters: Statistics::default(),
            newest: TaskId::from(0),
            next_worker: 1,
            owed: 0,
            backoff: Backoff::default(),
            shutdown: None,
            terminated: false,
        }
    }

    /// Start as many workers as the pool may have.
    pub fn start(&mut self, now: Time, claims: &mut dyn Claims, actions: &mut Vec<Action<B, P>>) {
        self.owed = self.config.max_workers;
        self.adjust_size(&mut Step { now, claims, actions });
    }

    /// Take in one event and say what is to be done about it.
    pub fn handle(
        &mut self,
        event: Event<B, P>,
        now: Time,
        claims: &mut dyn Claims,
        actions: &mut Vec<Action<B, P>>,
    ) {
        let step = &mut Step { now, claims, actions };
        match event {
            Event::Submit(spec, baggage) => self.submit(spec, baggage, step),
            Event::Cancel { task, kill } => self.cancel(task, kill, step),
            Event::WatchStart(task) => self.watch_start(task, step),
            Event::Forked { worker, pid } => self.forked(worker, pid, step),
            Event::Ready(worker) => self.ready(worker, step),
            Event::InitializerFailed { worker, exception } => {
                self.initializer_failed(worker, exception, step);
            }
            Event::StartFailed { worker, reason } => self.start_failed(worker, &reason, step),
            Event::Finished { worker, seq, outcome, recycle } => {
                self.finished(worker, seq, outcome, recycle, step);
            }
            Event::Alive(worker) => self.alive(worker, step),
            Event::Exited { worker, exit } => self.exited(worker, exit, step),
            Event::Condemned { worker, reason } => self.condemned(worker, &reason, step),
            Event::StackDone(worker) => self.stack_done(worker, step),
            Event::ExitHandlersDone(worker) => self.exit_handlers_done(worker, step),
            Event::MemorySampled { worker, seq, used_bytes } => {
                self.memory_sampled(worker, seq, used_bytes, step);
            }
            Event::Timer => self.wake(step),
            Event::Resize { max_workers, min_workers } => {
                self.resize(max_workers, min_workers, step);
            }
            Event::ClearWorkers => self.clear_workers(step),
            Event::Shutdown(mode) => self.shut_down(mode, step),
        }
        self.dispatch(step);
        self.adjust_size(step);
        self.wind_down(step);
    }

    /// Count a task that ended before it came here, because its call could not be pickled.
    pub fn count_unpicklable(&mut self) {
        self.counters.tasks_received += 1;
        self.counters.tasks_failed += 1;
    }

    /// Count a task as failed whose result, when it came, could not be read.
    pub fn count_unreadable(&mut self) {
        self.counters.tasks_failed += 1;
    }

    /// The instant at which [`Event::Timer`] is wanted.
    pub fn next_timer(&self) -> Option<Time> {
        self.timers.next()
    }

    /// Tasks that wait for a worker.
    pub fn backlog_len(&self) -> usize {
        self.backlog.len()
    }

    /// Whether a task that is submitted now could be sent or could cause a worker to be started.
    pub fn is_hungry(&self) -> bool {
        let more = !self.few_suffice();
        let can_send = !self.roomy.is_empty() || (more && !self.idle.is_empty());
        let lasting = self.census.live - self.census.expiring;
        let can_start = more && lasting < self.config.max_workers;
        (self.backlog.is_empty() && can_send) || can_start
    }

    /// Whether a worker waits for a task and none waits for a worker.
    pub fn has_idle_worker(&self) -> bool {
        self.backlog.is_empty()
            && !self.idle.is_empty()
            && self.census.busy < self.config.max_workers
            && !self.few_suffice()
    }

    /// Whether those who are busy do for all tasks, so that nobody else need be woken or started.
    ///
    /// A brisk worker without room has enough before it that it is looked at within the limits of `due.rs`,
    /// so that a task which waits for one does not wait for long.
    pub(super) fn few_suffice(&self) -> bool {
        self.census.brisk >= self.config.enough_brisk && self.pace.is_brisk()
    }

    /// Whether somebody waits for what happens next: the end of a task, or that of the pool.
    pub fn is_awaited(&self) -> bool {
        !self.tasks.is_empty() || self.shutdown.is_some()
    }

    /// Whether the pool is closed and all of its workers are gone.
    pub fn is_terminated(&self) -> bool {
        self.terminated
    }

    /// The counters and the workers as they are now.
    pub fn statistics(&self) -> Statistics {
        Statistics {
            worker_processes_still_alive: self.census.existing,
            worker_processes_idle: self.idle.len(),
            worker_processes_busy: self.census.busy,
            ..self.counters
        }
    }

    /// Count anew from zero.
    pub fn reset_statistics(&mut self) {
        self.counters = Statistics::default();
    }

    /// The workers, in no order.
    pub fn workers(&self) -> impl Iterator<Item = (WorkerId, &Worker<P>)> {
        self.workers.iter().map(|(&id, worker)| (id, worker))
    }

    /// A worker by its identity.
    pub fn worker(&self, id: WorkerId) -> Option<&Worker<P>> {
        self.workers.get(&id)
    }

    /// Whether tasks that have not ended are with this worker.
    pub fn is_busy(&self, id: WorkerId) -> bool {
        self.workers.get(&id).is_some_and(|worker| !worker.queue.is_empty())
    }

    /// What the caller keeps with a task that has not ended.
    pub fn baggage(&mut self, task: TaskId) -> Option<&mut B> {
        self.tasks.get_mut(&task).map(|record| &mut record.baggage)
    }

    /// Give up: end every task with the outcome that `end` makes, and forget all workers.
    ///
    /// For a supervisor that can't go on. Afterwards the pool is terminated.
    pub fn abandon(&mut self, mut end: impl FnMut() -> Outcome<P>) -> Vec<(B, Outcome<P>)> {
        self.terminated = true;
        self.shutdown = Some(Shutdown::Kill);
        self.workers.clear();
        self.backlog = Backlog::default();
        self.timers = Timers::default();
        self.idle.clear();
        self.roomy.clear();
        self.census = Census::default();
        self.tasks.drain().map(|(_, record)| (record.baggage, end())).collect()
    }

    /// Apply `change` to a worker and keep the counts of workers true.
    pub(super) fn update<R>(
        &mut self,
        id: WorkerId,
        change: impl FnOnce(&mut Worker<P>) -> R,
    ) -> Option<R> {
        let max_tasks = self.config.max_tasks_per_child;
        let worker = self.workers.get_mut(&id)?;
        self.census.remove(worker, max_tasks);
        let result = change(worker);
        self.census.add(worker, max_tasks);
        Some(result)
    }

    /// End a task: its baggage leaves the pool here and nowhere else.
    pub(super) fn end(
        &mut self,
        task: TaskId,
        outcome: Outcome<P>,
        worker: Option<WorkerId>,
        step: &mut Step<'_, B, P>,
    ) {
        let Some(record) = self.tasks.remove(&task) else {
            return;
        };
        if matches!(outcome, Outcome::Raised(_) | Outcome::Failed(_)) {
            self.counters.tasks_failed += 1;
        }
        step.act(Action::End { baggage: record.baggage, outcome, worker });
    }

    pub(super) fn wake(&mut self, step: &mut Step<'_, B, P>) {
        while let Some(wake) = self.timers.pop_due(step.now) {
            if let Wake::Worker(worker) = wake {
                self.look(worker, step);
            }
            // `Wake::Start` needs no more than the sizing that follows every event.
        }
    }
}
