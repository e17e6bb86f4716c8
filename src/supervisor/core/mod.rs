//! Everything that the supervisor owns, and its turns.
//!
//! [`inbox`] takes in what other threads want, [`actions`] does what the policy wants, [`readiness`]
//! hears the descriptors, [`processes`] follows workers and zygotes from their start to their end,
//! [`inspect`] shows the pool to its users.

mod actions;
mod inbox;
mod inspect;
mod processes;
mod readiness;

use std::collections::VecDeque;
use std::os::fd::AsFd;
use std::sync::Arc;
use std::time::Duration;

use crossbeam_channel::{Receiver, Sender};
use rustc_hash::FxHashMap;

use crate::error::Result;
use crate::ids::WorkerId;
use crate::policy::Pool;
use crate::policy::config::PoolConfig;
use crate::policy::event::{Action, Event};
use crate::supervisor::completions::CompletionSender;
use crate::supervisor::gate::Gate;
use crate::supervisor::handle::TaskHandle;
use crate::supervisor::messages::{Command, Completion, Launch, Outcome};
use crate::supervisor::remote::Remotes;
use crate::supervisor::report;
use crate::supervisor::report::OomVerdict;
use crate::supervisor::zygotes::Zygote;
use crate::sys::clock;
use crate::sys::pidfd::PidFd;
use crate::sys::poller::{Events, Interest, Poller};
use crate::sys::timer::Timer;
use crate::sys::waker::Waker;
use crate::time::Time;
use crate::wire::payload::Payload;

use readiness::Token;

/// How long the exit status of a process that is gone, or the end of one that has closed its socket, is
/// waited for.
const EXIT_GRACE: Duration = Duration::from_millis(200);

/// How long the end of what a process has left behind is waited for: of hundreds, on a busy machine.
const CLEARING_GRACE: Duration = Duration::from_secs(2);

/// Bytes read from a socket at once.
const SCRATCH_BYTES: usize = 256 * 1024;

/// What a pool is made with.
#[derive(Debug)]
pub struct Settings {
    /// What the policy reads.
    pub pool: PoolConfig,
    /// How many tasks may wait.
    pub max_backlog: usize,
    /// Whether each worker has a zygote of its own.
    pub zygote_each: bool,
    /// Whether workers get an environment, which is looked at when each is made.
    pub propagates: bool,
}

/// What the pool keeps with a task.
#[derive(Debug)]
struct Baggage<S> {
    payload: Arc<Payload>,
    handle: Arc<TaskHandle<S>>,
    // It counts in the gate.
    waits: bool,
}

/// The end of a task that is not told yet.
type HeldEnd<S> = (Arc<TaskHandle<S>>, Outcome);

/// Something that a worker writes into its page when it is asked to.
#[derive(Clone, Copy, Debug)]
enum Debt {
    Stack,
    ExitHandlers,
}

/// The state of a supervisor.
#[derive(Debug)]
pub struct Core<S> {
    pool: Pool<Baggage<S>, Payload>,
    remotes: Remotes,
    zygotes: FxHashMap<u64, Zygote>,
    // The zygote that forks all workers, where one does.
    common_zygote: Option<u64>,
    next_zygote: u64,
    zygote_each: bool,
    propagates: bool,
    gate: Arc<Gate>,
    waker: Arc<Waker>,
    poller: Arc<Poller>,
    timer: Timer,
    armed: Option<Time>,
    parent: PidFd,
    inbox: Receiver<Command<S>>,
    inbox_sender: Sender<Command<S>>,
    completions: CompletionSender<S>,
    launches: Sender<Launch>,
    environ: Option<Arc<Payload>>,
    oom: OomVerdict,
    // Work of the present turn.
    events: VecDeque<Event<Baggage<S>, Payload>>,
    actions: Vec<Action<Baggage<S>, Payload>>,
    dirty: Vec<WorkerId>,
    scratch: Vec<u8>,
    // Workers that owe a stack or the end of their exit handlers.
    owing: Vec<(WorkerId, Debt)>,
    // Workers whose end is waited for, and until when.
    leaving: FxHashMap<WorkerId, Time>,
    // Ends of tasks whose worker has yet to be killed by its zygote.
    held_ends: FxHashMap<WorkerId, Vec<HeldEnd<S>>>,
    // Workers whose ring was not empty when their turn was over.
    unfinished: Vec<WorkerId>,
}

impl<S: Send + Sync + 'static> Core<S> {
    #[allow(
        clippy::too_many_arguments,
        reason = "each is a different end of what `Shared` is made of"
    )]
    pub(super) fn new(
        settings: Settings,
        gate: Arc<Gate>,
        waker: Arc<Waker>,
        poller: Arc<Poller>,
        inbox: (Sender<Command<S>>, Receiver<Command<S>>),
        completions: CompletionSender<S>,
        launches: Sender<Launch>,
    ) -> Result<Self> {
        let timer = Timer::new()?;
        poller.add(waker.as_fd(), Token::Waker.pack(), Interest::READ)?;
        poller.add(timer.as_fd(), Token::Timer.pack(), Interest::READ)?;
        let mut core = Self {
            pool: Pool::new(settings.pool.validate()?),
            remotes: Remotes::default(),
            zygotes: FxHashMap::default(),
            common_zygote: None,
            next_zygote: 1,
            zygote_each: settings.zygote_each,
            propagates: settings.propagates,
            gate,
            waker,
            poller,
            timer,
            armed: None,
            parent: PidFd::current()?,
            inbox: inbox.1,
            inbox_sender: inbox.0,
            completions,
            launches,
            environ: None,
            oom: OomVerdict::new(),
            events: VecDeque::new(),
            actions: Vec::new(),
            dirty: Vec::new(),
            scratch: vec![0; SCRATCH_BYTES],
            owing: Vec::new(),
            leaving: FxHashMap::default(),
            held_ends: FxHashMap::default(),
            unfinished: Vec::new(),
        };
        core.pool.start(clock::now(), &mut core.remotes, &mut core.actions);
        Ok(core)
    }

    /// Handle what the poller told, what was asked for, and what is due.
    pub(super) fn turn(&mut self, events: &Events) {
        self.catch_up();
        for event in events.iter() {
            self.on_ready(event.token, event.readable || event.hangup, event.writable);
        }
        for id in std::mem::take(&mut self.unfinished) {
            self.collect(id);
        }
        self.process_events();
        let now = clock::now();
        self.expire_leaving(now);
        if self.pool.next_timer().is_some_and(|at| at <= now) {
            self.events.push_back(Event::Timer);
        }
        self.process_events();
    }

    pub(super) fn poller(&self) -> Arc<Poller> {
        Arc::clone(&self.poller)
    }

    pub(super) fn is_hungry(&self) -> bool {
        self.pool.is_hungry()
    }

    pub(super) fn is_terminated(&self) -> bool {
        self.pool.is_terminated()
    }

    /// Make the outcome of a turn visible.
    ///
    /// # Errors
    ///
    /// If the timer is not there any more; one of our own takes every instant.
    pub(super) fn publish(&mut self) -> Result<()> {
        self.flush_outboxes();
        let leaving = self.leaving.values().copied().min();
        let next = [self.pool.next_timer(), leaving].into_iter().flatten().min();
        if next != self.armed {
            self.armed = next;
            self.timer.arm(next)?;
        }
        self.gate.notify();
        Ok(())
    }

    /// Whether there is nothing to do before the next event.
    pub(super) fn may_sleep(&self) -> bool {
        self.inbox.is_empty() && self.unfinished.is_empty()
    }

    /// Whether somebody waits for what the pool does next.
    pub(super) fn is_awaited(&self) -> bool {
        self.pool.is_awaited()
    }

    /// The last words of a pool that has terminated.
    pub(super) fn finish(&mut self) {
        let doubted = |id| !self.zygote_each && self.common_zygote != Some(id);
        for (id, zygote) in self.zygotes.drain() {
            zygote.dismiss();
            if !zygote.is_ready() || doubted(id) {
                // It may never come to read that.
                zygote.kill();
            }
        }
        // There is nothing more to wait for, and so no timer that had to be set.
        let _ = self.publish();
    }

    /// End everything: the supervisor can't go on.
    pub(super) fn abandon(&mut self, reason: &str) {
        for id in self.remotes.0.keys().copied().collect::<Vec<_>>() {
            self.kill_process(id);
            // Nothing follows that could tell more.
            self.release_ends(id);
        }
        for zygote in self.zygotes.values() {
            zygote.dismiss();
        }
        for (baggage, outcome) in self.pool.abandon(|| report::pool_failed(reason)) {
            self.deliver(baggage.handle, outcome);
        }
        for event in std::mem::take(&mut self.events) {
            if let Event::Submit(_, baggage) = event {
                self.deliver(baggage.handle, report::pool_failed(reason));
            }
        }
        for action in std::mem::take(&mut self.actions) {
            if let Action::End { baggage, outcome, .. } = action {
                self.deliver(baggage.handle, outcome);
            }
        }
    }

    fn tell(&self, completion: Completion<S>) {
        self.completions.send(completion);
    }

    fn deliver(&self, handle: Arc<TaskHandle<S>>, outcome: Outcome) {
        if handle.deliver(outcome) {
            self.tell(Completion::End(handle));
        }
    }

    /// Let the policy handle all events, and do what it wants, until nothing is left.
    fn process_events(&mut self) {
        loop {
            for action in std::mem::take(&mut self.actions) {
                self.apply(action);
            }
            let Some(event) = self.events.pop_front() else { return };
            self.pool.handle(event, clock::now(), &mut self.remotes, &mut self.actions);
        }
    }
}
