//! The zygotes as the supervisor talks to them.
//!
//! A zygote that is asked for before it is ready keeps its requests here. Only so many are under way
//! at once, so its socket can't be full and nothing here ever has to wait for it.

use std::collections::VecDeque;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};

use crate::error::Result;
use crate::ids::WorkerId;
use crate::sys::pidfd::PidFd;
use crate::sys::{packet, socket};
use crate::wire::protocol::{self, Report, Request};

use super::remote::Ends;

/// Forks asked for and not answered.
const UNDER_WAY: usize = 8;

/// One zygote.
#[derive(Debug)]
pub(super) struct Zygote {
    control: OwnedFd,
    process: Option<PidFd>,
    is_ready: bool,
    waiting: VecDeque<(WorkerId, Ends)>,
    under_way: Vec<WorkerId>,
}

/// Something that a zygote said, with what came along.
pub(super) type Said = (Report, Option<OwnedFd>);

impl Zygote {
    /// A zygote that is yet to be started, and its end of the control socket.
    pub fn new(parent: BorrowedFd<'_>) -> Result<(Self, OwnedFd)> {
        let (control, theirs) = packet::pair()?;
        socket::set_nonblocking(control.as_fd())?;
        let zygote = Self {
            control,
            process: None,
            is_ready: false,
            waiting: VecDeque::new(),
            under_way: Vec::new(),
        };
        zygote.send(&Request::Watch, &[parent])?;
        Ok((zygote, theirs))
    }

    /// The supervisor's end of the control socket.
    pub fn control(&self) -> BorrowedFd<'_> {
        self.control.as_fd()
    }

    /// All descriptors that are kept of it, those of workers that it was not asked for yet among them.
    ///
    /// A fork that kept a worker's end of a socket would hide that the worker has closed its own.
    pub fn descriptors(&self) -> impl Iterator<Item = i32> {
        let process = self.process.as_ref().map(PidFd::as_fd);
        let ends = self
            .waiting
            .iter()
            .flat_map(|(_, ends)| [ends.socket.as_fd(), ends.page.as_fd(), ends.control.as_fd()]);
        [self.control.as_fd()].into_iter().chain(process).chain(ends).map(|fd| fd.as_raw_fd())
    }

    /// Its process has been started. Returns what tells of its end, or `None` if that has come.
    pub fn launched(&mut self, pid: u32) -> Option<BorrowedFd<'_>> {
        self.process = PidFd::open(pid).ok();
        self.process.as_ref().map(PidFd::as_fd)
    }

    /// What tells of the end of its process.
    pub fn process(&self) -> Option<BorrowedFd<'_>> {
        self.process.as_ref().map(PidFd::as_fd)
    }

    /// Whether it was asked for this worker, and has not answered.
    pub fn owes(&self, worker: WorkerId) -> bool {
        self.under_way.contains(&worker)
    }

    /// Whether it has said that it can fork.
    pub fn is_ready(&self) -> bool {
        self.is_ready
    }

    /// Ask for a worker.
    pub fn ask(&mut self, worker: WorkerId, ends: Ends) {
        self.waiting.push_back((worker, ends));
    }

    /// Take back a request that was not sent yet. Returns whether it was there.
    pub fn withdraw(&mut self, worker: WorkerId) -> bool {
        let before = self.waiting.len();
        self.waiting.retain(|&(waiting, _)| waiting != worker);
        self.waiting.len() < before
    }

    /// Send what may be sent.
    ///
    /// `parent` is a pidfd of this process, which all workers get. Returns the workers whose request could not
    /// be sent.
    pub fn flush(&mut self, parent: BorrowedFd<'_>) -> Vec<(WorkerId, String)> {
        let mut failed = Vec::new();
        if self.is_ready && !self.waiting.is_empty() {
            self.resume();
        }
        while self.is_ready && self.under_way.len() < UNDER_WAY {
            let Some((worker, ends)) = self.waiting.pop_front() else { break };
            let fds = [ends.socket.as_fd(), ends.page.as_fd(), ends.control.as_fd(), parent];
            match self.send(&Request::fork(worker), &fds) {
                Ok(()) => self.under_way.push(worker),
                Err(error) => failed.push((worker, error.to_string())),
            }
        }
        failed
    }

    /// Read one message; `Ok(None)` if there is none now.
    ///
    /// # Errors
    ///
    /// If the zygote is gone or beyond trust.
    pub fn receive(&mut self) -> Result<Option<Said>> {
        let mut bytes = [0; packet::MAX_BYTES];
        let Some(mut message) = socket::recv_with_fds(self.control(), &mut bytes)? else {
            return Ok(None);
        };
        let report: Report = protocol::decode(&bytes[..message.count])?;
        match &report {
            Report::Ready => self.is_ready = true,
            Report::Forked { worker, .. } | Report::ForkFailed { worker, .. } => {
                self.under_way.retain(|waiting| waiting.get() != *worker);
            }
            Report::SignalRefused { .. } | Report::Exited { .. } | Report::Cleared { .. } => {}
        }
        Ok(Some((report, message.fds.pop())))
    }

    /// The workers that it was to fork and has not.
    pub fn unborn(&self) -> impl Iterator<Item = WorkerId> + '_ {
        self.under_way.iter().copied().chain(self.waiting.iter().map(|&(worker, _)| worker))
    }

    /// Have it end, with everything below it.
    pub fn dismiss(&self) {
        self.resume();
        // A zygote that can't be told is told by its socket, or is gone.
        let _ = self.send(&Request::Exit, &[]);
    }

    /// Have it signal a worker that this process can't signal. Returns whether it was asked.
    pub fn signal_worker(&self, worker: WorkerId, signal: i32) -> bool {
        self.resume();
        self.send(&Request::Signal { worker: worker.get(), signal }, &[]).is_ok()
    }

    /// Kill it. Its workers live on.
    pub fn kill(&self) {
        if let Some(process) = &self.process {
            let _ = process.signal(libc::SIGKILL);
        }
    }

    /// Let it go on, if a task or somebody else has stopped it: all workers to come wait for it.
    pub fn resume(&self) {
        if let Some(process) = &self.process {
            // That it is gone will be told by its pidfd.
            let _ = process.signal(libc::SIGCONT);
        }
    }

    fn send(&self, request: &Request, fds: &[BorrowedFd<'_>]) -> Result<()> {
        let bytes = protocol::encode(request)?;
        match socket::send_with_fds(self.control(), &bytes, fds)? {
            Some(_) => Ok(()),
            None => Err(crate::error::Error::Protocol("the zygote does not read its requests")),
        }
    }
}
