//! What other threads want of the supervisor, taken in.

use std::sync::Arc;

use crate::error::Result;
use crate::policy::event::Event;
use crate::supervisor::messages::{Command, Completion, Submission};

use super::{Baggage, Core};

impl<S: Send + Sync + 'static> Core<S> {
    /// Take in all commands that other threads have left.
    pub(in crate::supervisor) fn catch_up(&mut self) {
        self.take_in(|_| ());
    }

    /// The same; but the tasks among them are cancelled.
    pub(in crate::supervisor) fn cancel_held(&mut self) {
        self.take_in(|command| {
            if let Command::Submit(submission) = command {
                submission.spec.cancelled_early = true;
            }
        });
    }

    fn take_in(&mut self, change: impl Fn(&mut Command<S>)) {
        while let Ok(mut command) = self.inbox.try_recv() {
            change(&mut command);
            self.obey(command);
            self.process_events();
        }
        self.process_events();
    }

    /// Hand over a task in the thread that submits it. The supervisor sleeps meanwhile.
    ///
    /// # Errors
    ///
    /// If the timer is not there any more.
    pub(in crate::supervisor) fn take_over(&mut self, submission: Submission<S>) -> Result<()> {
        self.obey(Command::Submit(submission));
        self.process_events();
        self.publish()
    }

    /// Whether a task that is submitted now would go to a worker at once.
    pub(in crate::supervisor) fn can_take_over(&self) -> bool {
        self.inbox.is_empty() && self.pool.has_idle_worker()
    }

    pub(in crate::supervisor) fn obey(&mut self, command: Command<S>) {
        let event = match command {
            Command::Submit(Submission { spec, payload, handle }) => {
                Event::Submit(spec, Baggage { payload: Arc::new(payload), handle, waits: true })
            }
            Command::CountUnpicklable => return self.pool.count_unpicklable(),
            Command::Cancel(task, kill) => Event::Cancel { task, kill },
            Command::WatchStart(task) => Event::WatchStart(task),
            Command::Launched { zygote, result } => return self.launched(zygote, result),
            Command::Environ(payload) => return self.set_environ(payload),
            Command::Resize { max_workers, min_workers } => {
                Event::Resize { max_workers, min_workers }
            }
            Command::ClearWorkers => Event::ClearWorkers,
            Command::MemoryJudged { worker, seq, used_bytes } => {
                Event::MemorySampled { worker, seq, used_bytes }
            }
            Command::Shutdown(mode, done) => {
                self.events.push_back(Event::Shutdown(mode));
                self.process_events();
                return self.tell(Completion::Sync(done));
            }
        };
        self.events.push_back(event);
    }
}
