//! A worker's main loop: read a task, claim it, run it, write its result.
//!
//! What runs a task is behind [`Interpreter`]; here is nothing but frames, claims and the question of
//! when to tell the supervisor. Results lie in the ring of the shared page as soon as they are there,
//! so nothing is lost by ringing late: the doorbell waits while more short tasks are at hand, and
//! the supervisor looks for itself when one of them turns out to be long.

use std::collections::VecDeque;
use std::io::IoSlice;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::Arc;
use std::time::Duration;

use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};

use crate::error::{Error, Result};
use crate::sys::{clock, socket};
use crate::time::Time;
use crate::wire::frame::{Decoder, HEADER_BYTES, Header, Kind};
use crate::wire::page::PageUser;
use crate::wire::payload::{Arrivals, Loan, Payload};

/// Results up to this size go through the ring.
const RING_RESULT_BYTES: usize = 8 * 1024;

/// How long a result may lie in the ring while more tasks are at hand.
const RING_DELAY: Duration = Duration::from_micros(100);

/// Bytes read at once.
const READ_BYTES: usize = 64 * 1024;

/// What a task brought.
#[derive(Debug)]
pub struct Reply {
    /// Whether it raised, so that the payload is an exception.
    pub raised: bool,
    /// The pickled value or exception.
    pub payload: Payload,
    /// Whether the worker asks to be replaced.
    pub recycle: bool,
}

/// What runs the tasks.
pub trait Interpreter {
    /// Run a pickled call. `seq` is its number, by which it may be interrupted meanwhile.
    fn call(&mut self, seq: u32, call: Payload) -> Reply;

    /// Apply pickled changes of the environment.
    fn apply_environ(&mut self, changes: Payload);

    /// Do something that may block, letting other threads run meanwhile.
    fn while_others_run<R: Send>(&mut self, act: impl FnOnce() -> R + Send) -> R;

    /// A signal came while nothing ran: let its handlers have it.
    fn handle_signals(&mut self);
}

/// Why the loop ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ended {
    /// It was told to go.
    Retired,
    /// The supervisor is gone.
    Abandoned,
}

/// The worker's end of the connection.
#[derive(Debug)]
pub struct Session {
    socket: OwnedFd,
    page: Arc<PageUser>,
    decoder: Decoder,
    buffer: Box<[u8]>,
    arrivals: Arrivals,
    waiting: VecDeque<(Header, Payload)>,
    // When the first result was written that the supervisor was not told of.
    untold: Option<Time>,
}

impl Session {
    /// A session over a connected socket and the page that goes with it.
    pub fn new(socket: OwnedFd, page: Arc<PageUser>) -> Self {
        Self {
            socket,
            page,
            decoder: Decoder::default(),
            buffer: vec![0; READ_BYTES].into_boxed_slice(),
            arrivals: Arrivals::default(),
            waiting: VecDeque::new(),
            untold: None,
        }
    }

    /// Wait for the environment that the supervisor has for this worker.
    ///
    /// Returns false if the supervisor is gone.
    pub fn receive_environ(&mut self, interpreter: &mut impl Interpreter) -> Result<bool> {
        loop {
            match self.waiting.pop_front() {
                Some((Header { kind: Kind::Environ, .. }, changes)) => {
                    interpreter.apply_environ(changes);
                    return Ok(true);
                }
                Some(_) => return Err(Error::Protocol("the environment comes first")),
                None if !self.read(interpreter)? => return Ok(false),
                None => {}
            }
        }
    }

    /// Say that tasks may come.
    pub fn ready(&self) -> Result<()> {
        self.write(Header::bare(Kind::Ready), &[])
    }

    /// Say that the initializer raised.
    pub fn initializer_failed(&self, exception: &Payload) -> Result<()> {
        self.write(
            Header { len: exception.len() as u64, ..Header::bare(Kind::InitializerFailed) },
            &exception.body,
        )
    }

    /// Run tasks until there will be no more.
    ///
    /// # Errors
    ///
    /// If the connection fails or the supervisor sends what is not a frame; the worker can't go on.
    pub fn run(&mut self, interpreter: &mut impl Interpreter) -> Result<Ended> {
        loop {
            let Some((header, payload)) = self.waiting.pop_front() else {
                self.ring()?;
                if !self.read(interpreter)? {
                    return Ok(Ended::Abandoned);
                }
                continue;
            };
            match header.kind {
                Kind::Task => self.run_task(header.seq, payload, interpreter)?,
                Kind::Environ => interpreter.apply_environ(payload),
                Kind::Retire => {
                    self.ring()?;
                    return Ok(Ended::Retired);
                }
                _ => return Err(Error::Protocol("only a worker may send it")),
            }
        }
    }

    fn run_task(
        &mut self,
        seq: u32,
        call: Payload,
        interpreter: &mut impl Interpreter,
    ) -> Result<()> {
        if !self.page.claim(seq) {
            return self.write(Header { seq, ..Header::bare(Kind::Skipped) }, &[]);
        }
        let reply = interpreter.call(seq, call);
        let now = clock::now();
        self.page.mark_ended(seq, now);
        let kind = if reply.raised { Kind::Raised } else { Kind::Returned };
        let body = &reply.payload.body;
        let loan = reply.payload.loan();
        let len = body.len() as u64;
        let header = Header { kind, recycle: reply.recycle, attached: loan.is_some(), seq, len };
        if let Some(loan) = loan {
            return interpreter.while_others_run(|| self.write_attached(header, body, loan));
        }
        if body.len() > RING_RESULT_BYTES || !self.page.push_result(&[&header.encode(), body]) {
            // Results keep their order: those in the ring are found before the socket is read on.
            return interpreter.while_others_run(|| self.write(header, body));
        }
        let since = *self.untold.get_or_insert(now);
        if now.since(since) >= RING_DELAY { self.ring() } else { Ok(()) }
    }

    /// Tell the supervisor of results, if it wants to be told.
    fn ring(&mut self) -> Result<()> {
        if self.untold.take().is_some() && self.page.doorbell_wanted() {
            self.write(Header::bare(Kind::Doorbell), &[])?;
        }
        Ok(())
    }

    /// Wait for frames. Returns false if there will be none.
    fn read(&mut self, interpreter: &mut impl Interpreter) -> Result<bool> {
        let (socket, buffer) = (self.socket.as_fd(), &mut self.buffer);
        let received = interpreter.while_others_run(|| {
            // One who waits in `recv` is also woken when the peer takes what was sent to it.
            if wait_until(socket, PollFlags::POLLIN) {
                socket::recv_with_fd(socket, buffer)
            } else {
                Ok(None)
            }
        });
        match received {
            Ok(Some((0, _))) => Ok(false),
            Ok(Some((count, fds))) => {
                self.arrivals.add(fds)?;
                let (arrivals, waiting) = (&mut self.arrivals, &mut self.waiting);
                let mut complete = Ok(());
                self.decoder.feed(
                    &self.buffer[..count],
                    |header, body| match Payload::received(body, header.attached, arrivals) {
                        Ok(payload) => waiting.push_back((header, payload)),
                        Err(error) => complete = Err(error),
                    },
                )?;
                complete.map(|()| true)
            }
            Ok(None) => {
                interpreter.handle_signals();
                Ok(true)
            }
            Err(error) if error.is(Errno::ECONNRESET) => Ok(false),
            Err(error) => Err(error),
        }
    }

    /// Wait until the socket can be written, or a signal comes.
    fn wait_for_room(&self) {
        wait_until(self.socket.as_fd(), PollFlags::POLLOUT);
    }

    /// Write a frame with which a segment goes.
    fn write_attached(&self, header: Header, body: &[u8], loan: &Loan) -> Result<()> {
        let frame = [&header.encode()[..], body].concat();
        loop {
            match loan.send(self.socket.as_fd(), &frame)? {
                Some(count) => return self.write_rest(header, body, count),
                None => self.wait_for_room(),
            }
        }
    }

    fn write(&self, header: Header, body: &[u8]) -> Result<()> {
        self.write_rest(header, body, 0)
    }

    /// Write what is left of a frame when `written` bytes have gone.
    fn write_rest(&self, header: Header, body: &[u8], mut written: usize) -> Result<()> {
        let head = header.encode();
        let total = HEADER_BYTES + body.len();
        while written < total {
            let parts = [
                IoSlice::new(&head[written.min(HEADER_BYTES)..]),
                IoSlice::new(&body[written.saturating_sub(HEADER_BYTES)..]),
            ];
            match socket::send(self.socket.as_fd(), &parts) {
                Ok(Some(count)) => written += count,
                Ok(None) => self.wait_for_room(),
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }
}

/// Wait until a socket can be used, or a signal comes. Returns false after a signal.
fn wait_until(socket: BorrowedFd<'_>, usable: PollFlags) -> bool {
    // Any other error will show when the socket is used.
    poll(&mut [PollFd::new(socket, usable)], PollTimeout::NONE) != Err(Errno::EINTR)
}
