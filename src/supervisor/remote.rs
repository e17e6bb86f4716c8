//! A worker as the supervisor talks to it: its process, its socket and its shared page.

use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::sync::Arc;
use std::time::Duration;

use nix::errno::Errno;
use rustc_hash::FxHashMap;

use crate::error::{Error, Result};
use crate::exit_status::ExitStatus;
use crate::ids::WorkerId;
use crate::policy::event::Claims;
use crate::sys::bell::Bell;
use crate::sys::pidfd::PidFd;
use crate::sys::process_tree::Signalled;
use crate::sys::{clock, process_tree, socket};
use crate::time::Time;
use crate::wire::claim::{ClaimState, Revoke};
use crate::wire::frame::{self, Decoder, Header, Kind};
use crate::wire::page::PageOwner;
use crate::wire::payload::{Arrivals, Payload};
use crate::wire::protocol::{soft_timeout_signal, stack_signal};

use super::outbox::Outbox;

// The policy counts with the entries that the page has.
const _: () = assert!(crate::policy::worker::CLAIM_ENTRIES == crate::wire::page::CLAIM_ENTRIES);

/// How often the ring is looked at again before others get their turn.
const RING_ROUNDS: usize = 8;

/// One worker.
#[derive(Debug)]
#[allow(clippy::struct_excessive_bools, reason = "each is a fact of its own")]
pub(super) struct Remote {
    /// The zygote that is its parent.
    pub zygote: u64,
    /// Its process, once it is forked.
    pub process: Option<Process>,
    /// It is to be killed as soon as it has a process.
    pub doomed: bool,
    /// Frames on their way to it.
    pub outbox: Outbox,
    /// The poller tells when the socket can be written.
    pub wants_write: bool,
    /// It stands in the list of those whose outbox is to be written.
    pub is_dirty: bool,
    // The environment that it was sent last, until its first task.
    environ: Option<Arc<Payload>>,
    is_used: bool,
    /// Since when its zygote has been asked to kill it, which this process may not do.
    pub awaits_kill: Option<Time>,
    /// Why it could not be killed.
    pub survives: Option<String>,
    /// How it ended, once that is known.
    pub exit: Option<ExitStatus>,
    /// What it has left behind is being killed.
    pub leaves: bool,
    /// The memory of its process when it was last looked at.
    pub rss_bytes: Option<u64>,
    /// The most memory that its process had, once it is gone.
    pub peak_rss_bytes: Option<u64>,
    /// Kills for memory were counted after its death.
    pub is_looked_into: bool,
    /// How many stacks it had written down when it was last asked for one.
    pub stacks_before: u32,
    socket: OwnedFd,
    page: PageOwner,
    control: Bell,
    decoder: Decoder,
    arrivals: Arrivals,
}

/// The process of a worker.
#[derive(Debug)]
pub(super) struct Process {
    /// Its id.
    pub pid: u32,
    /// What proves that the id still means it.
    pub pidfd: PidFd,
}

/// The descriptors that a worker is given.
#[derive(Debug)]
pub(super) struct Ends {
    /// Its end of the socket.
    pub socket: OwnedFd,
    /// Its page.
    pub page: OwnedFd,
    /// The worker's end of the bell between its watcher and the supervisor.
    pub control: Bell,
}

impl Remote {
    /// The supervisor's side of a worker that does not exist yet, and what it is to be given.
    pub fn new(zygote: u64) -> Result<(Self, Ends)> {
        let (ours, theirs) = socket::pair()?;
        socket::set_nonblocking(ours.as_fd())?;
        let page = PageOwner::create()?;
        let (control, watcher) = Bell::pair()?;
        let clone = |fd: std::os::fd::BorrowedFd<'_>| {
            fd.try_clone_to_owned()
                .map_err(|source| Error::Syscall { call: "duplicate a descriptor", source })
        };
        let ends = Ends { socket: theirs, page: clone(page.as_fd())?, control: watcher };
        let remote = Self {
            zygote,
            process: None,
            doomed: false,
            outbox: Outbox::default(),
            wants_write: false,
            is_dirty: false,
            environ: None,
            is_used: false,
            awaits_kill: None,
            survives: None,
            exit: None,
            leaves: false,
            rss_bytes: None,
            peak_rss_bytes: None,
            is_looked_into: false,
            stacks_before: 0,
            socket: ours,
            page,
            control,
            decoder: Decoder::default(),
            arrivals: Arrivals::default(),
        };
        Ok((remote, ends))
    }

    /// The supervisor's end of the socket.
    pub fn socket(&self) -> &OwnedFd {
        &self.socket
    }

    /// The supervisor's end of the bell.
    pub fn control(&self) -> &Bell {
        &self.control
    }

    /// The page.
    pub fn page(&self) -> &PageOwner {
        &self.page
    }

    /// The descriptors that are the supervisor's alone.
    pub fn descriptors(&self) -> impl Iterator<Item = i32> + use<> {
        let process = self.process.as_ref().map(|process| process.pidfd.as_fd().as_raw_fd());
        let own = [
            self.socket.as_raw_fd(),
            self.page.as_fd().as_raw_fd(),
            self.control.as_fd().as_raw_fd(),
        ];
        own.into_iter().chain(process)
    }

    /// Its process id, once it is forked.
    pub fn pid(&self) -> Option<u32> {
        self.process.as_ref().map(|process| process.pid)
    }

    /// Queue an environment, if it is another than the last and no task was sent yet.
    pub fn update_environ(&mut self, environ: &Arc<Payload>) {
        let known = self.environ.as_ref().is_some_and(|last| Arc::ptr_eq(last, environ));
        if !self.is_used && !known {
            let header = Header { len: environ.len() as u64, ..Header::bare(Kind::Environ) };
            self.outbox.push(header, environ);
            self.environ = Some(Arc::clone(environ));
        }
    }

    /// Queue a task.
    pub fn send_task(&mut self, seq: u32, payload: &Arc<Payload>) {
        self.page.announce(seq);
        let attached = payload.loan().is_some();
        let len = payload.len() as u64;
        let header = Header { attached, seq, len, ..Header::bare(Kind::Task) };
        self.outbox.push(header, payload);
        self.is_used = true;
        self.environ = None;
    }

    /// Read what the socket has. Returns whether the worker has closed its end.
    pub fn receive(
        &mut self,
        scratch: &mut [u8],
        mut each: impl FnMut(Header, Payload),
    ) -> Result<bool> {
        loop {
            match socket::recv_with_fd(self.socket.as_fd(), scratch) {
                Ok(None) => return Ok(false),
                Ok(Some((0, _))) => return Ok(true),
                // It went before it had read all that was sent to it.
                Err(error) if error.is(Errno::ECONNRESET) => return Ok(true),
                Err(error) => return Err(error),
                Ok(Some((count, fds))) => {
                    self.arrivals.add(fds)?;
                    let arrivals = &mut self.arrivals;
                    let mut garbage = None;
                    self.decoder.feed(
                        &scratch[..count],
                        |header, body| match Payload::received(body, header.attached, arrivals) {
                            Ok(payload) => each(header, payload),
                            Err(error) => garbage = Some(error),
                        },
                    )?;
                    if let Some(error) = garbage {
                        return Err(error);
                    }
                    if count < scratch.len() {
                        return Ok(false);
                    }
                }
            }
        }
    }

    /// Whether the worker has sent a part of a frame. One that has no task is not at it any more.
    pub fn is_amid_frame(&self) -> bool {
        self.decoder.is_amid_body()
    }

    /// Read what the ring has. Returns whether it was empty in the end and the doorbell is set.
    pub fn collect(&mut self, mut each: impl FnMut(Header, Payload)) -> Result<bool> {
        let mut garbage = None;
        for _ in 0..RING_ROUNDS {
            self.page.pop_results(|record| match frame::parse(record) {
                Ok((header, _)) if header.attached => {
                    garbage = Some(Error::Protocol("with a segment, in the ring"));
                }
                Ok((header, body)) => each(header, Payload::from(body.to_vec())),
                Err(error) => garbage = Some(error),
            })?;
            if let Some(error) = garbage.take() {
                return Err(error);
            }
            if self.page.arm_doorbell() {
                return Ok(true);
            }
        }
        Ok(false)
    }

    /// Write what is queued. Returns whether all was written.
    pub fn flush(&mut self) -> Result<bool> {
        self.outbox.flush(self.socket.as_fd())
    }

    /// Ask for the stack. [`Signalled::Gone`] if none will come.
    pub fn ask_for_stack(&mut self) -> Signalled {
        self.stacks_before = self.page.stack_dumps();
        let is_clear = self.page.clear_stack().is_ok();
        if !is_clear || self.pid().is_some_and(process_tree::is_stopped) {
            return Signalled::Gone;
        }
        self.signal_process(stack_signal())
    }

    /// Whether the stack that was asked for is there.
    pub fn has_stack(&self) -> bool {
        self.page.stack_dumps() != self.stacks_before
    }

    /// Have the watcher run the exit handlers.
    pub fn run_exit_handlers(&self) {
        self.control.ring();
    }

    /// Raise the soft timeout of a task.
    pub fn interrupt(&self, seq: u32) -> Signalled {
        self.page.soft_interrupt(seq);
        self.interrupt_again(seq)
    }

    /// Remind the worker of a soft timeout that it has not raised.
    pub fn interrupt_again(&self, seq: u32) -> Signalled {
        if self.page.is_interrupting(seq) {
            self.signal_process(soft_timeout_signal())
        } else {
            Signalled::Gone
        }
    }

    /// Send a signal to the worker alone.
    fn signal_process(&self, signal: i32) -> Signalled {
        match self.process.as_ref().map(|process| process.pidfd.signal(signal)) {
            Some(Ok(true)) => Signalled::Sent(1),
            // Its pidfd tells that it is gone.
            Some(Ok(false)) | None => Signalled::Gone,
            Some(Err(_)) => Signalled::Refused,
        }
    }

    /// Send a signal to the whole tree.
    pub fn signal(&self, signal: i32) -> Signalled {
        self.process.as_ref().map_or(Signalled::Gone, |process| {
            process_tree::signal_tree(&process.pidfd, process.pid, signal)
        })
    }

    /// Kill the whole tree, now or as soon as there is one.
    pub fn kill(&mut self) -> Signalled {
        if let Some(process) = &self.process {
            process_tree::kill_tree(&process.pidfd, process.pid)
        } else {
            self.doomed = true;
            Signalled::Gone
        }
    }
}

/// All workers that have descriptors.
#[derive(Debug, Default)]
pub(super) struct Remotes(pub FxHashMap<WorkerId, Remote>);

impl Claims for Remotes {
    fn revoke(&mut self, worker: WorkerId, seq: u32) -> bool {
        // Without a page there is nobody who could begin it.
        self.0.get(&worker).is_none_or(|remote| remote.page.revoke(seq) == Revoke::Revoked)
    }

    fn started(&self, worker: WorkerId, seq: u32) -> Option<Time> {
        match self.0.get(&worker)?.page.state(seq) {
            ClaimState::Claimed { started } => Some(started.unwrap_or_else(clock::now)),
            // The worker's memory is garbage: whatever limit there is, it is over.
            ClaimState::Lost => Some(Time::default()),
            ClaimState::NotClaimed | ClaimState::Revoked => None,
        }
    }

    fn took(&self, worker: WorkerId, seq: u32) -> Option<Duration> {
        self.0.get(&worker)?.page.took(seq)
    }

    fn has_exit_handlers(&self, worker: WorkerId) -> bool {
        self.0.get(&worker).is_some_and(|remote| remote.page.exit_handlers() > 0)
    }
}
