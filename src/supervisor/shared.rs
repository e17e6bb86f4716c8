//! What the supervisor shares with the threads that know Python.

use std::panic::{self, AssertUnwindSafe};
use std::sync::atomic::{AtomicBool, AtomicU8, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError, Weak};

use crossbeam_channel::{Receiver, Sender, unbounded};

use crate::error::Result;
use crate::policy::statistics::Statistics;
use crate::supervisor::gate::Gate;
use crate::supervisor::handle::TaskHandle;
use crate::sys::fork_guard;
use crate::sys::poller::Poller;
use crate::sys::waker::Waker;

use super::completions::{self, CompletionReceiver, CompletionSender};
use super::core::{Core, Settings};
use super::messages::{Command, Completion, Launch, Outcome, Submission, WorkerReport};

/// How the supervisor rests, for those who may have to wake it.
mod rest {
    pub const AWAKE: u8 = 0;
    /// Asleep, and a task could be sent to a worker.
    pub const HUNGRY: u8 = 1;
    /// Asleep, and a task could only wait.
    pub const SATED: u8 = 2;
    /// Asleep until something is heard, however long that takes: to be woken for any task, since
    /// nothing may be heard of it once the program has closed the pool's descriptors.
    pub const DEEP: u8 = 3;
}

/// What is left of the supervisor.
#[derive(Debug)]
pub(super) enum Life<S> {
    /// Everything.
    Running(Box<Core<S>>),
    /// What it had counted. Its descriptors are closed, however long futures are kept.
    Ended(Statistics),
}

/// The supervisor's face to other threads.
#[derive(Debug)]
pub struct Shared<S> {
    gate: Arc<Gate>,
    inbox: Sender<Command<S>>,
    completions: CompletionSender<S>,
    launches: Sender<Launch>,
    // The core's, so that it goes with the core.
    waker: Weak<Waker>,
    rest: AtomicU8,
    life: Mutex<Life<S>>,
    failed: OnceLock<String>,
    ended: AtomicBool,
    has_lost_descriptors: AtomicBool,
    // The process that has the supervisor: a fork of it has not.
    generation: u32,
    // What is posted after the end is found here.
    leftover: Receiver<Command<S>>,
}

impl<S: Send + Sync + 'static> Shared<S> {
    /// A pool whose supervisor does not run yet, and the ends that the completer and the launcher
    /// wait on; `bell` is rung for a completer that waits for descriptors.
    ///
    /// # Errors
    ///
    /// If the operating system refuses descriptors.
    #[allow(clippy::type_complexity, reason = "the two receivers are what the caller came for")]
    pub fn new(
        settings: Settings,
        bell: Option<Waker>,
    ) -> Result<(Arc<Self>, CompletionReceiver<S>, Receiver<Launch>)> {
        let gate = Arc::new(Gate::new(settings.max_backlog));
        let waker = Arc::new(Waker::new()?);
        let weak_waker = Arc::downgrade(&waker);
        let poller = Arc::new(Poller::new()?);
        let (inbox, commands) = unbounded();
        let (completions, completed) = completions::channel(bell);
        let (launches, launching) = unbounded();
        let leftover = commands.clone();
        let core = Core::new(
            settings,
            Arc::clone(&gate),
            waker,
            poller,
            (inbox.clone(), commands),
            completions.clone(),
            launches.clone(),
        )?;
        let shared = Self {
            gate,
            inbox,
            completions,
            launches,
            waker: weak_waker,
            rest: AtomicU8::new(rest::AWAKE),
            life: Mutex::new(Life::Running(Box::new(core))),
            failed: OnceLock::new(),
            ended: AtomicBool::new(false),
            has_lost_descriptors: AtomicBool::new(false),
            generation: fork_guard::generation(),
            leftover,
        };
        Ok((Arc::new(shared), completed, launching))
    }

    /// The backlog's bound.
    pub fn gate(&self) -> &Gate {
        &self.gate
    }

    /// Run a task. It must have its place in the backlog.
    ///
    /// Hands it over at once if a worker waits for it and the supervisor sleeps, which saves two
    /// changes of threads; else the supervisor gets it with its next batch. Returns tasks that came
    /// too late, which the caller must end.
    pub fn submit(&self, submission: Submission<S>) -> Vec<(Arc<TaskHandle<S>>, Outcome)> {
        // A task that may not even start has an end to come now, not with the next batch.
        let urgent = submission.spec.limits.timeout.is_some_and(|timeout| timeout.is_zero());
        let rests = self.rest.load(Ordering::SeqCst);
        if matches!(rests, rest::HUNGRY | rest::DEEP)
            && let Ok(mut life) = self.life.try_lock()
            && let Life::Running(core) = &mut *life
            && core.can_take_over()
        {
            // Which it says while it has the lock.
            let sleeps_deep = self.rest.load(Ordering::SeqCst) == rest::DEEP;
            let taken = panic::catch_unwind(AssertUnwindSafe(|| {
                let published = core.take_over(submission);
                self.publish_rest(core, false);
                published
            }));
            drop(life);
            match taken {
                Ok(Ok(())) if sleeps_deep => self.wake(),
                Ok(Ok(())) => {}
                Ok(Err(_)) => self.lose_descriptors(),
                Err(cause) => self.fail(&panic_text(cause.as_ref())),
            }
            return Vec::new();
        }
        let late = self.push(Command::Submit(submission));
        self.wake_if(|rests| match rests {
            rest::HUNGRY | rest::DEEP => true,
            rest::SATED => urgent,
            _ => false,
        });
        late
    }

    /// Have a task run when [`Self::hand_over`] is called, or sooner; otherwise as [`Self::submit`].
    pub fn hold_back(&self, submission: Submission<S>) -> Vec<(Arc<TaskHandle<S>>, Outcome)> {
        self.push(Command::Submit(submission))
    }

    /// Have the supervisor run the tasks that were held back.
    pub fn hand_over(&self) {
        if !self.inbox.is_empty() {
            self.wake_if(|rests| rests != rest::AWAKE);
        }
    }

    /// Cancel the tasks that are held back. Waits for the supervisor's turn.
    pub fn cancel_held(&self) {
        self.after(Core::cancel_held, |_| (), |_| ());
    }

    /// Tell the supervisor something.
    pub fn post(&self, command: Command<S>) {
        // Other threads' tasks, which find the pool ended before they could be sent.
        self.deliver(self.push(command));
        self.wake_if(|rests| rests != rest::AWAKE);
    }

    fn push(&self, command: Command<S>) -> Vec<(Arc<TaskHandle<S>>, Outcome)> {
        // The receivers live as long as this.
        let _ = self.inbox.send(command);
        // Either the supervisor sees the command in its last look, or this sees that it has ended.
        if self.ended.load(Ordering::SeqCst) { self.refuse_leftover() } else { Vec::new() }
    }

    fn deliver(&self, ended: Vec<(Arc<TaskHandle<S>>, Outcome)>) {
        for (handle, outcome) in ended {
            if handle.deliver(outcome) {
                self.completions.send(Completion::End(handle));
            }
        }
    }

    /// What is in the inbox of a supervisor that has ended; waiting threads are released by this.
    fn refuse_leftover(&self) -> Vec<(Arc<TaskHandle<S>>, Outcome)> {
        let submissions = self.leftover.try_iter().filter_map(|command| match command {
            Command::Submit(submission) => Some(submission.handle),
            _ => None,
        });
        let outcome = || {
            self.failed
                .get()
                .map_or(Outcome::Cancelled, |reason| super::report::pool_failed(reason))
        };
        submissions.map(|handle| (handle, outcome())).collect()
    }

    /// The last words: the completer and the launcher end after this.
    pub(super) fn end(&self) {
        self.gate.close();
        let mut life = self.lock();
        if let Life::Running(core) = &*life {
            let ended = Life::Ended(core.statistics());
            let core = std::mem::replace(&mut *life, ended);
            if self.has_lost_descriptors.load(Ordering::SeqCst) {
                // Their numbers may mean something else by now, which is not ours to close.
                std::mem::forget(core);
            }
        }
        drop(life);
        self.ended.store(true, Ordering::SeqCst);
        self.deliver(self.refuse_leftover());
        // Where the launcher has ended already, nobody needs to be told.
        let _ = self.launches.send(Launch::Stop);
        let is_deaf = self.has_lost_descriptors.load(Ordering::SeqCst);
        let last = if is_deaf { Completion::Deserted } else { Completion::Terminated };
        self.completions.send(last);
    }

    fn wake_if(&self, wanted: impl Fn(u8) -> bool) {
        if wanted(self.rest.load(Ordering::SeqCst)) {
            self.rest.store(rest::AWAKE, Ordering::SeqCst);
            self.wake();
        }
    }

    fn wake(&self) {
        if let Some(waker) = self.waker.upgrade()
            && !waker.wake()
            && self.generation == fork_guard::generation()
        {
            self.lose_descriptors();
        }
    }

    /// Whether there will be nothing more of this pool.
    pub fn has_ended(&self) -> bool {
        self.ended.load(Ordering::SeqCst)
    }

    /// Count anew from zero.
    pub fn reset_statistics(&self) {
        match &mut *self.lock() {
            Life::Running(core) => core.reset_statistics(),
            Life::Ended(statistics) => *statistics = Statistics::default(),
        }
    }

    /// Count a task as failed whose result could not be unpickled.
    pub fn count_unreadable(&self) {
        match &mut *self.lock() {
            Life::Running(core) => core.count_unreadable(),
            Life::Ended(statistics) => statistics.tasks_failed += 1,
        }
    }

    /// The counters, true for everything that this thread has submitted before.
    pub fn statistics(&self) -> Statistics {
        self.caught_up(|core| core.statistics(), |statistics| *statistics)
    }

    /// The workers as they are now.
    pub fn workers(&self) -> Vec<WorkerReport<S>> {
        self.caught_up(Core::workers, |_| Vec::new())
    }

    /// Tell the supervisor something, and do it in its place before this returns. Waits for its turn.
    pub fn post_and_process(&self, command: Command<S>) {
        self.deliver(self.push(command));
        self.caught_up(|_| (), |_| ());
    }

    /// Handle what other threads have left, in the supervisor's place, and then ask for something.
    fn caught_up<R>(
        &self,
        running: impl FnOnce(&mut Core<S>) -> R,
        ended: impl FnOnce(&Statistics) -> R,
    ) -> R {
        self.after(Core::catch_up, running, ended)
    }

    /// The same, with another way to handle it.
    fn after<R>(
        &self,
        handle: impl FnOnce(&mut Core<S>),
        running: impl FnOnce(&mut Core<S>) -> R,
        ended: impl FnOnce(&Statistics) -> R,
    ) -> R {
        let mut life = self.lock();
        if let Life::Running(core) = &mut *life {
            let caught = panic::catch_unwind(AssertUnwindSafe(|| {
                let caught_up = self.catch_up(core, handle);
                (running(core), caught_up)
            }));
            drop(life);
            match caught {
                Ok((answer, caught_up)) => {
                    match caught_up {
                        Ok(true) => self.wake_if(|rests| rests != rest::AWAKE),
                        Ok(false) => {}
                        Err(_) => self.lose_descriptors(),
                    }
                    return answer;
                }
                Err(cause) => self.fail(&panic_text(cause.as_ref())),
            }
            life = self.lock();
        }
        match &*life {
            Life::Ended(statistics) => ended(statistics),
            // Somebody else noticed it first, and is at it.
            Life::Running(core) => ended(&core.statistics()),
        }
    }

    /// Handle what other threads have left. Returns whether something is left for the supervisor to do.
    ///
    /// # Errors
    ///
    /// If it can't be made visible. The supervisor sleeps, and would not find that out.
    fn catch_up(&self, core: &mut Core<S>, handle: impl FnOnce(&mut Core<S>)) -> Result<bool> {
        // What comes after the end is for `end` to refuse, while there is somebody to settle it.
        if core.is_terminated() {
            return Ok(false);
        }
        handle(core);
        core.publish()?;
        if matches!(self.rest.load(Ordering::SeqCst), rest::HUNGRY | rest::SATED) {
            self.publish_rest(core, false);
        }
        // A task that was held back may have begun, which the supervisor must not sleep for good beside.
        let sleeps_too_deep = self.rest.load(Ordering::SeqCst) == rest::DEEP && core.is_awaited();
        Ok(sleeps_too_deep || !core.may_sleep())
    }

    /// The descriptors that are the supervisor's alone, for a child that was forked with copies.
    pub fn descriptors(&self) -> Vec<i32> {
        match &*self.lock() {
            Life::Running(core) => core.descriptors(),
            Life::Ended(_) => Vec::new(),
        }
    }

    /// Why the pool failed, if it did.
    pub fn failure(&self) -> Option<&str> {
        self.failed.get().map(String::as_str)
    }

    pub(super) fn lock(&self) -> MutexGuard<'_, Life<S>> {
        // A panic under the lock ends the pool; what is asked afterwards is answered all the same.
        self.life.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn mark_awake(&self) {
        self.rest.store(rest::AWAKE, Ordering::SeqCst);
    }

    /// Say how the supervisor rests while it sleeps.
    pub(super) fn publish_rest(&self, core: &Core<S>, is_deep: bool) {
        let rests = match (is_deep, core.is_hungry()) {
            (true, _) => rest::DEEP,
            (false, true) => rest::HUNGRY,
            (false, false) => rest::SATED,
        };
        self.rest.store(rests, Ordering::SeqCst);
    }

    /// End everything with a message: the supervisor can't go on.
    pub(super) fn fail(&self, reason: &str) {
        if self.failed.set(reason.to_owned()).is_err() {
            return; // Whoever noticed it first does the rest.
        }
        self.gate.close();
        let message = format!("the supervisor failed: {reason}");
        self.completions.send(Completion::Log(log::Level::Error, message));
        if let Life::Running(core) = &mut *self.lock() {
            // What it holds may be half changed; each part is tried for itself.
            let _ = panic::catch_unwind(AssertUnwindSafe(|| core.abandon(reason)));
        }
        if let Some(waker) = self.waker.upgrade() {
            waker.wake();
        }
        self.end();
    }

    /// End everything: the program has closed descriptors that were not its own, and there is nothing
    /// left by which anything could be heard of.
    pub(super) fn lose_descriptors(&self) {
        self.has_lost_descriptors.store(true, Ordering::SeqCst);
        self.fail("the program has closed the pool's descriptors");
    }
}

/// What a panic said.
pub(crate) fn panic_text(cause: &(dyn std::any::Any + Send)) -> String {
    let text = cause.downcast_ref::<&str>().map(ToString::to_string);
    text.or_else(|| cause.downcast_ref::<String>().cloned())
        .unwrap_or_else(|| "of an unknown kind".into())
}
