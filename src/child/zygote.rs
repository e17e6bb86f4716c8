//! The process between the parent and the workers.
//!
//! A zygote forks workers when it is told to, and says when one has ended and how. It is a child
//! subreaper: what a dead worker leaves behind, daemons included, becomes a child of the zygote, which
//! kills it. When the parent dies, it kills everything below itself and goes.

use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd, RawFd};

use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::signal::{SigSet, Signal};
use nix::sys::signalfd::{SfdFlags, SignalFd};
use rustc_hash::FxHashMap;

use crate::error::{Error, Result};
use crate::sys::limits::MoreDescriptors;
use crate::sys::pidfd::PidFd;
use crate::sys::process_tree::ChildList;
use crate::sys::socket::Message;
use crate::sys::{packet, prctl, process_tree, socket, wait};

use crate::wire::protocol::{self, Report, Request};

/// What a send may be refused with that passes.
const SHORTAGES: [Errno; 3] = [Errno::ENOBUFS, Errno::ENOMEM, Errno::ETOOMANYREFS];

/// How long a send that was refused is put off.
const SHORTAGE_MS: u8 = 10;

/// Characters of a reason; each takes at most four bytes of a message.
const MAX_REASON_CHARS: usize = 900;

/// How often what is below is killed before a zygote goes; each round waits for what was killed.
const LAST_ROUNDS: usize = 1000;

/// The descriptors of a new worker, in the order in which they travel.
#[derive(Debug)]
pub struct WorkerFds {
    /// Its end of the socket.
    pub socket: OwnedFd,
    /// Its page.
    pub page: OwnedFd,
    /// Its end of the bell between its watcher and the supervisor.
    pub control: OwnedFd,
    /// A pidfd of the parent.
    pub parent: OwnedFd,
}

impl WorkerFds {
    fn from_message(fds: Vec<OwnedFd>) -> Result<Self> {
        let [socket, page, control, parent] = <[OwnedFd; 4]>::try_from(fds)
            .map_err(|_| Error::Protocol("with too few descriptors"))?;
        Ok(Self { socket, page, control, parent })
    }
}

/// What can fork a worker: in the child it runs the worker and does not return.
pub trait Forker {
    /// Fork. `inherited` are the zygote's own descriptors, which the child must close.
    fn fork(
        &mut self,
        worker: u64,
        fds: &WorkerFds,
        inherited: &[RawFd],
    ) -> std::result::Result<u32, String>;
}

/// A zygote.
#[derive(Debug)]
pub struct Zygote {
    control: OwnedFd,
    children: SignalFd,
    parent: Option<PidFd>,
    workers: FxHashMap<u32, u64>,
    // Children that were there before the first worker, which are somebody else's affair.
    strangers: Vec<u32>,
    // Where orphans are seen, if the kernel has such a list.
    list: Option<ChildList>,
}

impl Zygote {
    /// Make this process a zygote. From now on SIGCHLD is blocked in it, for descriptors to tell.
    pub fn new(control: OwnedFd) -> Result<Self> {
        prctl::become_subreaper()?;
        let mut mask = SigSet::empty();
        mask.add(Signal::SIGCHLD);
        mask.thread_block().map_err(|errno| Error::errno("block SIGCHLD", errno))?;
        let flags = SfdFlags::SFD_CLOEXEC | SfdFlags::SFD_NONBLOCK;
        let children = SignalFd::with_flags(&mask, flags)
            .map_err(|errno| Error::errno("listen to SIGCHLD", errno))?;
        let strangers = process_tree::children_of_self();
        let list = ChildList::of_orphans();
        Ok(Self { control, children, parent: None, workers: FxHashMap::default(), strangers, list })
    }

    /// Fork and watch until there is nothing left to do; everything below is gone then.
    pub fn run(mut self, forker: &mut impl Forker) {
        // Whatever goes wrong, the end is the same: nothing may be left behind.
        let _ = self.serve(forker);
        self.sweep_up();
    }

    fn serve(&mut self, forker: &mut impl Forker) -> Result<()> {
        self.report(&Report::Ready, &[])?;
        loop {
            let mut fds = vec![
                PollFd::new(self.control.as_fd(), PollFlags::POLLIN),
                PollFd::new(self.children.as_fd(), PollFlags::POLLIN),
            ];
            fds.extend(
                self.parent.as_ref().map(|parent| PollFd::new(parent.as_fd(), PollFlags::POLLIN)),
            );
            if poll(&mut fds, PollTimeout::NONE).is_err() {
                continue;
            }
            let ready: Vec<bool> = fds.iter().map(|fd| fd.any().unwrap_or(true)).collect();
            if ready.get(2) == Some(&true) {
                return Ok(());
            }
            if ready[1] {
                self.reap()?;
            }
            if ready[0] && !self.obey(forker)? {
                return Ok(());
            }
        }
    }

    /// Do what the supervisor asks. Returns whether there may be more to do.
    fn obey(&mut self, forker: &mut impl Forker) -> Result<bool> {
        let mut bytes = [0; packet::MAX_BYTES];
        // Not to get them all would be the end of every worker.
        let more = MoreDescriptors::allow();
        let received = socket::recv_with_fds(self.control.as_fd(), &mut bytes);
        drop(more);
        let Some(Message { count, fds, has_lost_fds }) = received? else {
            return Ok(true);
        };
        if count == 0 {
            return Ok(false);
        }
        match protocol::decode(&bytes[..count])? {
            Request::Watch => self.parent = fds.into_iter().next().map(PidFd::from_owned),
            Request::Exit => return Ok(false),
            // This start is lost, and no worker that is there.
            Request::Fork { worker } if has_lost_fds => {
                let reason = "failed to receive the descriptors of a worker: too many open files";
                self.refuse_fork(worker, reason)?;
            }
            Request::Fork { worker } => {
                self.fork(worker, &WorkerFds::from_message(fds)?, forker)?;
            }
            Request::Signal { worker, signal } => self.signal(worker, signal)?,
        }
        Ok(true)
    }

    /// Signal a worker in the supervisor's place.
    fn signal(&mut self, worker: u64, signal: i32) -> Result<()> {
        let found = self.workers.iter().find(|&(_, &id)| id == worker);
        // One that has been reaped was reported.
        let Some((&pid, _)) = found else { return Ok(()) };
        match Self::signal_child(pid, signal) {
            Ok(()) => Ok(()),
            Err(errno) => {
                let reason = errno.desc().to_owned();
                self.report(&Report::SignalRefused { worker, reason }, &[])
            }
        }
    }

    /// Signal a child that has not been waited for, so that its pid means it and no other process.
    fn signal_child(pid: u32, signal: i32) -> nix::Result<()> {
        if signal == libc::SIGKILL {
            let _more = MoreDescriptors::allow();
            if let Ok(process) = PidFd::open(pid) {
                // What it leaves comes to this process as the subreaper, and is killed when it is
                // reaped; what it can't be told is told below.
                let _ = process_tree::kill_tree(&process, pid);
            }
        }
        let pid = i32::try_from(pid).map_err(|_| Errno::ESRCH)?;
        // SAFETY: the call takes no pointer.
        Errno::result(unsafe { libc::kill(pid, signal) }).map(drop)
    }

    fn refuse_fork(&self, worker: u64, reason: &str) -> Result<()> {
        // A message has a bound, and the text of an exception has none.
        let reason = reason.chars().take(MAX_REASON_CHARS).collect();
        self.report(&Report::ForkFailed { worker, reason }, &[])
    }

    fn fork(&mut self, worker: u64, fds: &WorkerFds, forker: &mut impl Forker) -> Result<()> {
        let mut inherited = vec![self.control.as_raw_fd(), self.children.as_raw_fd()];
        inherited.extend(self.parent.as_ref().map(|parent| parent.as_fd().as_raw_fd()));
        inherited.extend(self.list.as_ref().map(|list| list.as_fd().as_raw_fd()));
        match forker.fork(worker, fds, &inherited) {
            Ok(pid) => {
                self.workers.insert(pid, worker);
                // It is a child that has not been waited for, so its pid means it and no other process.
                let more = MoreDescriptors::allow();
                let pidfd = PidFd::open(pid);
                drop(more);
                match pidfd {
                    Ok(pidfd) => self.report(&Report::Forked { worker, pid }, &[pidfd.as_fd()]),
                    // Without a pidfd the supervisor could not follow it.
                    Err(error) => {
                        let _ = Self::signal_child(pid, libc::SIGKILL);
                        self.refuse_fork(worker, &format!("failed to {error}"))
                    }
                }
            }
            Err(reason) => self.refuse_fork(worker, &reason),
        }
    }

    /// Take in the children that have ended.
    fn reap(&mut self) -> Result<()> {
        // At once: somebody waits for what the dead were working on.
        self.take_in()?;
        while let Ok(Some(_)) = self.children.read_signal() {}
        // Of those that ended in between, the signal is gone.
        self.take_in()
    }

    /// Reap whoever has ended, say of the workers how they went, and kill what they have left.
    fn take_in(&mut self) -> Result<()> {
        let mut reaped = Vec::new();
        while let Some((pid, exit, peak_rss_bytes)) = wait::reap_any_measured()? {
            reaped.push((self.workers.remove(&pid), exit.into(), peak_rss_bytes));
            self.strangers.retain(|&stranger| stranger != pid);
        }
        if reaped.is_empty() {
            return Ok(());
        }
        let leaves = !self.is_alone();
        for &(worker, exit, peak_rss_bytes) in &reaped {
            if let Some(worker) = worker {
                self.report(&Report::Exited { worker, exit, peak_rss_bytes, leaves }, &[])?;
            }
        }
        if leaves {
            self.kill_orphans();
            for worker in reaped.iter().filter_map(|&(worker, ..)| worker) {
                self.report(&Report::Cleared { worker }, &[])?;
            }
        }
        Ok(())
    }

    /// Whether all children are workers or strangers.
    ///
    /// Nearly always they are, which is much quicker to see than it is to look for orphans. Where the
    /// kernel has no such list, false.
    fn is_alone(&self) -> bool {
        let is_known = |pid: &u32| self.workers.contains_key(pid) || self.strangers.contains(pid);
        let children = self.list.as_ref().and_then(ChildList::read);
        children.is_some_and(|children| children.iter().all(is_known))
    }

    /// Kill what the dead have left behind.
    fn kill_orphans(&self) {
        let spared: Vec<u32> = self.workers.keys().chain(&self.strangers).copied().collect();
        let _more = MoreDescriptors::allow();
        process_tree::kill_children_of_self(&spared);
    }

    /// Kill everything below, and wait until it is gone: a zombie would become somebody else's, and
    /// whoever is the first process of a container may never reap it.
    fn sweep_up(&self) {
        // Whoever could not be found would be left behind.
        let _more = MoreDescriptors::allow();
        for _ in 0..LAST_ROUNDS {
            process_tree::kill_children_of_self(&self.strangers);
            while let Ok(Some(_)) = self.children.read_signal() {}
            while matches!(wait::reap_any(), Ok(Some(_))) {}
            let left = process_tree::children_of_self();
            if left.iter().all(|child| self.strangers.contains(child)) {
                return;
            }
            let mut fds = [PollFd::new(self.children.as_fd(), PollFlags::POLLIN)];
            let _ = poll(&mut fds, PollTimeout::from(10_u8));
        }
    }

    /// Tell the supervisor. **Blocks** until it is told, unless the supervisor is gone.
    fn report(&self, report: &Report, fds: &[BorrowedFd<'_>]) -> Result<()> {
        let bytes = protocol::encode(report)?;
        loop {
            match socket::send_with_fds(self.control.as_fd(), &bytes, fds) {
                Ok(Some(_)) => return Ok(()),
                // A signal handler ran instead.
                Ok(None) => {}
                // The kernel has no memory for the message now, or too many descriptors are on their
                // way: a report that is lost would cost more than a wait.
                Err(error) if SHORTAGES.iter().any(|&errno| error.is(errno)) => {
                    let _ = poll(&mut [], PollTimeout::from(SHORTAGE_MS));
                }
                Err(error) => return Err(error),
            }
        }
    }
}
