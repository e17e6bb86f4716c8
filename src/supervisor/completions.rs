//! The way from the supervisor to whoever settles futures.
//!
//! A thread can wait for what comes along it. An event loop waits for descriptors alone: for one of
//! those there is a bell, which is rung when something has come and the last ring was answered.

use std::mem;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use crossbeam_channel::{Receiver, RecvError, Sender, unbounded};

use super::messages::Completion;
use crate::sys::waker::Waker;

#[derive(Debug)]
struct Bell {
    // Closed with the pool, however long what has this is kept.
    waker: Mutex<Option<Waker>>,
    is_rung: AtomicBool,
}

impl Bell {
    fn ring(&self) {
        if !self.is_rung.swap(true, Ordering::SeqCst)
            && let Some(waker) = &*self.waker()
        {
            // If somebody has closed it no event loop is left that could be told.
            waker.wake();
        }
    }

    /// Close it, unless its number may mean something else by now.
    fn take_down(&self, is_ours: bool) {
        let waker = self.waker().take();
        if !is_ours {
            mem::forget(waker);
        }
    }

    fn waker(&self) -> MutexGuard<'_, Option<Waker>> {
        self.waker.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The supervisor's end.
#[derive(Debug)]
pub(super) struct CompletionSender<S> {
    sender: Sender<Completion<S>>,
    bell: Option<Arc<Bell>>,
}

impl<S> CompletionSender<S> {
    pub(super) fn send(&self, completion: Completion<S>) {
        let is_last = completion.is_last();
        let is_deserted = matches!(completion, Completion::Deserted);
        // The completer outlives every pool but one that failed, where nobody listens any more.
        let _ = self.sender.send(completion);
        if let Some(bell) = &self.bell {
            bell.ring();
            if is_last {
                bell.take_down(!is_deserted);
            }
        }
    }
}

impl<S> Clone for CompletionSender<S> {
    fn clone(&self) -> Self {
        Self { sender: self.sender.clone(), bell: self.bell.clone() }
    }
}

/// The completer's end.
#[derive(Debug)]
pub struct CompletionReceiver<S> {
    receiver: Receiver<Completion<S>>,
    bell: Option<Arc<Bell>>,
}

impl<S> CompletionReceiver<S> {
    /// **Blocks** until something comes.
    ///
    /// # Errors
    ///
    /// If nothing will ever come.
    pub fn wait(&self) -> Result<Completion<S>, RecvError> {
        self.receiver.recv()
    }

    /// What has come, if anything has.
    #[must_use]
    pub fn next(&self) -> Option<Completion<S>> {
        self.receiver.try_recv().ok()
    }

    /// Have the bell rung again by what comes from now on. What has come before is to be looked for
    /// after this.
    pub fn answer(&self) {
        if let Some(bell) = &self.bell {
            bell.is_rung.store(false, Ordering::SeqCst);
        }
    }

    /// How much has come.
    #[must_use]
    pub fn count(&self) -> usize {
        self.receiver.len()
    }
}

/// Both ends; with a bell for an event loop, if one is to settle the futures.
pub(super) fn channel<S>(bell: Option<Waker>) -> (CompletionSender<S>, CompletionReceiver<S>) {
    let (sender, receiver) = unbounded();
    let bell = bell.map(|waker| {
        Arc::new(Bell { waker: Mutex::new(Some(waker)), is_rung: AtomicBool::new(false) })
    });
    (CompletionSender { sender, bell: bell.clone() }, CompletionReceiver { receiver, bell })
}

#[cfg(test)]
mod tests {
    use std::os::fd::AsFd;

    use super::*;
    use crate::sys::poller::is_readable;

    fn with_bell() -> (CompletionSender<()>, CompletionReceiver<()>, Waker) {
        let waker = Waker::new().unwrap();
        let same = Waker::from_owned(waker.as_fd().try_clone_to_owned().unwrap()).unwrap();
        let (completions, completed) = channel(Some(same));
        (completions, completed, waker)
    }

    fn is_rung(waker: &Waker) -> bool {
        let rung = is_readable(waker.as_fd()).unwrap();
        waker.drain();
        rung
    }

    #[test]
    fn the_bell_is_rung_once_until_it_is_answered() {
        let (completions, completed, waker) = with_bell();
        assert!(!is_rung(&waker));
        completions.send(Completion::WorkerUp(1));
        assert!(is_rung(&waker));
        completions.send(Completion::WorkerUp(2));
        assert!(!is_rung(&waker), "nobody has answered");
        completed.answer();
        assert!(completed.next().is_some() && completed.next().is_some());
        completions.send(Completion::WorkerUp(3));
        assert!(is_rung(&waker));
    }

    #[test]
    fn the_last_one_is_rung_for_and_closes_the_bell() {
        let (completions, completed, waker) = with_bell();
        let bell = completed.bell.clone().unwrap();
        completions.send(Completion::Terminated);
        assert!(is_rung(&waker));
        assert!(bell.waker().is_none());
        completed.answer();
        completions.send(Completion::WorkerUp(1));
        assert!(!is_rung(&waker), "there is nobody any more");
    }

    #[test]
    fn no_ring_is_lost() {
        const COUNT: u32 = 20_000;
        let (completions, completed, waker) = with_bell();
        let sender = std::thread::spawn(move || {
            for pid in 0..COUNT {
                completions.send(Completion::WorkerUp(pid));
            }
        });
        let poller = crate::sys::poller::Poller::new().unwrap();
        poller.add(waker.as_fd(), 0, crate::sys::poller::Interest::READ).unwrap();
        let mut events = crate::sys::poller::Events::with_capacity(1);
        let mut seen = 0;
        while seen < COUNT {
            poller.wait_at_most(std::time::Duration::from_secs(10), &mut events).unwrap();
            assert!(!events.is_empty(), "{seen} of {COUNT} were rung for");
            waker.drain();
            completed.answer();
            while completed.next().is_some() {
                seen += 1;
            }
        }
        sender.join().unwrap();
    }
}
