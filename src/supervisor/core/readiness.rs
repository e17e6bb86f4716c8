//! What the poller tells, as events for the policy.

use std::collections::VecDeque;
use std::os::fd::AsFd;

use crate::ids::WorkerId;
use crate::policy::event::Event;
use crate::supervisor::messages::Outcome;
use crate::sys::poller::Interest;
use crate::wire::frame::{Header, Kind};
use crate::wire::payload::Payload;

use super::{Core, Debt};

/// Whose descriptor it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Token {
    Waker,
    Timer,
    Socket(WorkerId),
    Process(WorkerId),
    Control(WorkerId),
    Zygote(u64),
    ZygoteProcess(u64),
}

impl Token {
    pub(super) fn pack(self) -> u64 {
        match self {
            Self::Waker => 0,
            Self::Timer => 1,
            Self::Socket(id) => id.get() << 3,
            Self::Process(id) => id.get() << 3 | 1,
            Self::Zygote(id) => id << 3 | 2,
            Self::ZygoteProcess(id) => id << 3 | 3,
            Self::Control(id) => id.get() << 3 | 4,
        }
    }

    pub(super) fn unpack(token: u64) -> Self {
        match (token, token & 7) {
            (0, _) => Self::Waker,
            (1, _) => Self::Timer,
            (_, 0) => Self::Socket(WorkerId::new(token >> 3)),
            (_, 1) => Self::Process(WorkerId::new(token >> 3)),
            (_, 2) => Self::Zygote(token >> 3),
            (_, 3) => Self::ZygoteProcess(token >> 3),
            _ => Self::Control(WorkerId::new(token >> 3)),
        }
    }
}

impl<S: Send + Sync + 'static> Core<S> {
    pub(super) fn on_ready(&mut self, token: u64, readable: bool, writable: bool) {
        match Token::unpack(token) {
            Token::Waker => self.waker.drain(),
            Token::Control(id) => self.hear_control(id),
            Token::Timer => {
                self.timer.drain();
                self.armed = None;
            }
            Token::Socket(id) => {
                if writable {
                    self.with_remote(id, |_| {});
                }
                if readable {
                    self.receive(id);
                }
            }
            Token::Process(id) => self.process_gone(id),
            Token::Zygote(id) => self.hear_zygote(id),
            Token::ZygoteProcess(id) => self.zygote_process_gone(id),
        }
        self.process_events();
    }

    /// The watcher of a worker, or its handler of the stack signal, has rung.
    fn hear_control(&mut self, id: WorkerId) {
        if let Some(remote) = self.remotes.0.get(&id)
            && !remote.control().silence()
        {
            // The worker is gone, of which its pidfd tells, or its task has shut this.
            let _ = self.poller.remove(remote.control().as_fd());
        }
        self.collect_debts();
    }

    pub(super) fn collect_debts(&mut self) {
        for (id, debt) in std::mem::take(&mut self.owing) {
            let Some(remote) = self.remotes.0.get(&id) else { continue };
            match debt {
                Debt::Stack if remote.has_stack() => self.events.push_back(Event::StackDone(id)),
                Debt::ExitHandlers if remote.page().exit_done() => {
                    self.events.push_back(Event::ExitHandlersDone(id));
                }
                Debt::Stack | Debt::ExitHandlers => self.owing.push((id, debt)),
            }
        }
    }

    pub(super) fn receive(&mut self, id: WorkerId) {
        let Some(remote) = self.remotes.0.get_mut(&id) else { return };
        let events = &mut self.events;
        match remote
            .receive(&mut self.scratch, |header, payload| translate(id, header, payload, events))
        {
            Ok(false) => {}
            Ok(true) => {
                let _ = self.poller.remove(remote.socket().as_fd());
                self.await_end(id);
            }
            Err(error) => {
                // What it finished before it went astray counts.
                self.collect(id);
                return self.condemn(id, &error.to_string());
            }
        }
        self.collect(id);
    }

    pub(super) fn collect(&mut self, id: WorkerId) {
        let Some(remote) = self.remotes.0.get_mut(&id) else { return };
        let events = &mut self.events;
        match remote.collect(|header, payload| translate(id, header, payload, events)) {
            Ok(true) => {}
            Ok(false) => self.unfinished.push(id),
            Err(error) => self.condemn(id, &error.to_string()),
        }
    }

    pub(super) fn condemn(&mut self, id: WorkerId, error: &str) {
        if let Some(remote) = self.remotes.0.get(&id) {
            let _ = self.poller.remove(remote.socket().as_fd());
        }
        let reason = format!("failed to {error}");
        self.events.push_back(Event::Condemned { worker: id, reason });
    }

    pub(super) fn flush_outboxes(&mut self) {
        for id in std::mem::take(&mut self.dirty) {
            let Some(remote) = self.remotes.0.get_mut(&id) else { continue };
            remote.is_dirty = false;
            if remote.process.is_none() {
                continue;
            }
            // A worker that can't be written to is gone, and its pidfd tells.
            let wants_write = !remote.flush().unwrap_or(true);
            if wants_write != remote.wants_write {
                remote.wants_write = wants_write;
                let interest = if wants_write { Interest::READ_WRITE } else { Interest::READ };
                let _ =
                    self.poller.modify(remote.socket().as_fd(), Token::Socket(id).pack(), interest);
            }
        }
    }
}

/// Tell the policy what a frame means.
fn translate<B>(
    worker: WorkerId,
    header: Header,
    payload: Payload,
    events: &mut VecDeque<Event<B, Payload>>,
) {
    let finished =
        |outcome| Event::Finished { worker, seq: header.seq, outcome, recycle: header.recycle };
    events.push_back(match header.kind {
        Kind::Doorbell => return,
        Kind::Ready => Event::Ready(worker),
        Kind::InitializerFailed => Event::InitializerFailed { worker, exception: payload },
        Kind::Skipped => Event::Alive(worker),
        // Its future fails, and so it counts as a failure.
        Kind::Returned if payload.is_lost() => finished(Outcome::Raised(payload)),
        Kind::Returned => finished(Outcome::Returned(payload)),
        Kind::Raised => finished(Outcome::Raised(payload)),
        Kind::Task | Kind::Environ | Kind::Retire => {
            Event::Condemned { worker, reason: "it sent what only the parent may send".into() }
        }
    });
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tokens_survive_the_poller() {
        let id = WorkerId::new(5);
        for token in [
            Token::Waker,
            Token::Timer,
            Token::Socket(id),
            Token::Process(id),
            Token::Control(id),
            Token::Zygote(7),
            Token::ZygoteProcess(7),
        ] {
            assert_eq!(Token::unpack(token.pack()), token);
        }
    }
}
