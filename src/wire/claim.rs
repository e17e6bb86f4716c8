//! Who has a task: the word that a supervisor and a worker settle it with.
//!
//! A task that is sent ahead can be taken back as long as the worker has not claimed it. Both sides
//! do so with one compare-and-swap of the same word, so exactly one of them wins:
//!
//! ```text
//!   anything ──announce──▶ SENT ──claim───▶ CLAIMED ──stamp──▶ CLAIMED, with its start
//!                            └────revoke──▶ REVOKED
//! ```
//!
//! The word holds the task's sequence number beside its state, so a worker that reads an old frame
//! late can't claim the next task of the same entry. The supervisor reuses an entry only when the
//! task before it has ended.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use crate::time::Time;

const SENT: u64 = 1;
const CLAIMED: u64 = 2;
const REVOKED: u64 = 3;

/// One task's entry, in memory that both sides share.
#[derive(Debug, Default)]
#[repr(C)]
pub struct Claim {
    /// `seq << 2 | state`; zero before the first use.
    word: AtomicU64,
    /// When the claimed task began, or zero when that was not stamped yet.
    started_ns: AtomicU64,
    /// When it was over, or zero.
    ended_ns: AtomicU64,
}

/// How far the worker is with a task.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[must_use]
pub enum ClaimState {
    /// It has not begun, and can still be revoked.
    NotClaimed,
    /// It has begun, at this instant unless the worker didn't come to stamping it.
    Claimed {
        /// The start; never later than the moment it was asked for.
        started: Option<Time>,
    },
    /// It was taken back, and will not begin.
    Revoked,
    /// The entry is about another task, or was scribbled over.
    Lost,
}

/// What came of taking a task back.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[must_use]
pub enum Revoke {
    /// The worker will not begin it.
    Revoked,
    /// It has begun, or must be taken for begun because the entry was scribbled over.
    AlreadyClaimed {
        /// The start, if it was stamped.
        started: Option<Time>,
    },
}

const fn word(seq: u32, state: u64) -> u64 {
    (seq as u64) << 2 | state
}

impl Claim {
    /// The supervisor's: makes the entry that of `seq`, not claimed yet. To be called before the
    /// task is sent.
    pub fn announce(&self, seq: u32) {
        // The old stamps go first: whoever sees the new word (it is released, and acquired by
        // every reader) can't see a stamp from the entry's last use.
        self.started_ns.store(0, Ordering::Relaxed);
        self.ended_ns.store(0, Ordering::Relaxed);
        self.word.store(word(seq, SENT), Ordering::Release);
    }

    /// The worker's: tries to get `seq` for itself. It may begin only when this is true.
    #[must_use]
    pub fn claim(&self, seq: u32) -> bool {
        self.swap(word(seq, SENT), word(seq, CLAIMED)).is_ok()
    }

    /// The worker's: notes when the task it claimed began.
    pub fn stamp(&self, now: Time) {
        self.started_ns.store(now.as_nanos(), Ordering::Release);
    }

    /// The worker's: notes when that task was over.
    pub fn stamp_end(&self, now: Time) {
        self.ended_ns.store(now.as_nanos(), Ordering::Release);
    }

    /// How long a task took whose result is there, if the worker has written it down.
    ///
    /// It is the worker's word, and may be anything but negative.
    pub fn took(&self) -> Option<Duration> {
        let [started, ended] =
            [&self.started_ns, &self.ended_ns].map(|it| it.load(Ordering::Acquire));
        let both = started != 0 && ended != 0;
        both.then(|| Time::from_nanos(ended).since(Time::from_nanos(started)))
    }

    /// The supervisor's: tries to take `seq` back.
    pub fn revoke(&self, seq: u32, now: Time) -> Revoke {
        match self.swap(word(seq, SENT), word(seq, REVOKED)) {
            Ok(_) => Revoke::Revoked,
            Err(found) => match self.interpret(found, seq, now) {
                ClaimState::Revoked => Revoke::Revoked,
                ClaimState::Claimed { started } => Revoke::AlreadyClaimed { started },
                ClaimState::NotClaimed | ClaimState::Lost => {
                    Revoke::AlreadyClaimed { started: None }
                }
            },
        }
    }

    /// How far the worker is with `seq`.
    pub fn state(&self, seq: u32, now: Time) -> ClaimState {
        self.interpret(self.word.load(Ordering::Acquire), seq, now)
    }

    fn swap(&self, from: u64, to: u64) -> Result<u64, u64> {
        self.word.compare_exchange(from, to, Ordering::AcqRel, Ordering::Acquire)
    }

    fn interpret(&self, found: u64, seq: u32, now: Time) -> ClaimState {
        if found == word(seq, SENT) {
            ClaimState::NotClaimed
        } else if found == word(seq, CLAIMED) {
            ClaimState::Claimed { started: self.started(now) }
        } else if found == word(seq, REVOKED) {
            ClaimState::Revoked
        } else {
            ClaimState::Lost
        }
    }

    fn started(&self, now: Time) -> Option<Time> {
        match self.started_ns.load(Ordering::Acquire) {
            0 => None,
            // A stamp from the future would put off the task's deadline for ever.
            nanos => Some(Time::from_nanos(nanos).min(now)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: Time = Time::from_nanos(1_000);

    #[test]
    fn a_claim_is_for_one_sequence_number() {
        let claim = Claim::default();
        assert_eq!(claim.state(0, NOW), ClaimState::Lost);
        claim.announce(64);
        assert_eq!(claim.state(64, NOW), ClaimState::NotClaimed);
        assert!(!claim.claim(0));
        assert!(claim.claim(64));
        assert!(!claim.claim(64));
        assert_eq!(claim.state(64, NOW), ClaimState::Claimed { started: None });
        assert_eq!(claim.state(0, NOW), ClaimState::Lost);
    }

    #[test]
    fn revoking_is_final_and_may_be_repeated() {
        let claim = Claim::default();
        claim.announce(u32::MAX);
        assert_eq!(claim.revoke(u32::MAX, NOW), Revoke::Revoked);
        assert_eq!(claim.revoke(u32::MAX, NOW), Revoke::Revoked);
        assert_eq!(claim.state(u32::MAX, NOW), ClaimState::Revoked);
        assert!(!claim.claim(u32::MAX));
    }

    #[test]
    fn scribbles_count_as_begun_and_never_as_the_future() {
        let claim = Claim::default();
        claim.announce(5);
        claim.word.store(u64::MAX, Ordering::Relaxed);
        assert_eq!(claim.state(5, NOW), ClaimState::Lost);
        assert_eq!(claim.revoke(5, NOW), Revoke::AlreadyClaimed { started: None });
        claim.announce(5);
        assert!(claim.claim(5));
        claim.stamp(Time::from_nanos(u64::MAX));
        assert_eq!(claim.state(5, NOW), ClaimState::Claimed { started: Some(NOW) });
    }

    #[test]
    fn how_long_a_task_took_is_known_once_it_is_over_and_forgotten_with_it() {
        let claim = Claim::default();
        claim.announce(5);
        assert!(claim.claim(5));
        claim.stamp(NOW);
        assert_eq!(claim.took(), None);
        claim.stamp_end(NOW + Duration::from_micros(3));
        assert_eq!(claim.took(), Some(Duration::from_micros(3)));
        claim.stamp_end(Time::from_nanos(1));
        assert_eq!(claim.took(), Some(Duration::ZERO));
        claim.announce(69);
        assert_eq!(claim.took(), None);
    }

    /// Everything that a run of both sides noted.
    #[derive(Default)]
    struct Run {
        claim: Claim,
        begun: Vec<u32>,
        revoked: Vec<u32>,
        /// The worker's program is at a task that it didn't get.
        skipping: bool,
    }

    type Step = fn(&mut Run);

    /// One use of the entry, one atomic operation a step; then the next use, as the supervisor does
    /// it: only when the first task has ended.
    const SUPERVISOR: [Step; 6] = [
        |run| run.claim.started_ns.store(0, Ordering::Relaxed),
        |run| run.claim.word.store(word(1, SENT), Ordering::Release),
        |run| look(run, 1),
        |run| take_back(run, 1),
        |run| look(run, 1),
        |run| take_back(run, 1),
    ];
    const REUSE: [Step; 3] =
        [|run| run.claim.announce(65), |run| look(run, 65), |run| take_back(run, 65)];
    const WORKER: [Step; 4] =
        [|run| get(run, 1), |run| stamp(run, 1), |run| get(run, 65), |run| stamp(run, 65)];

    fn look(run: &mut Run, seq: u32) {
        match run.claim.state(seq, NOW) {
            ClaimState::NotClaimed => assert!(!run.begun.contains(&seq)),
            ClaimState::Claimed { started } => {
                assert!(run.begun.contains(&seq));
                assert!(started.is_none_or(|time| time == Time::from_nanos(seq.into())));
            }
            ClaimState::Revoked => assert!(run.revoked.contains(&seq)),
            ClaimState::Lost => panic!("nobody scribbles here"),
        }
    }

    fn take_back(run: &mut Run, seq: u32) {
        match run.claim.revoke(seq, NOW) {
            Revoke::Revoked => run.revoked.push(seq),
            Revoke::AlreadyClaimed { started } => {
                assert!(run.begun.contains(&seq));
                assert!(started.is_none_or(|time| time == Time::from_nanos(seq.into())));
            }
        }
    }

    fn get(run: &mut Run, seq: u32) {
        run.skipping = !run.claim.claim(seq);
        if !run.skipping {
            run.begun.push(seq);
        }
    }

    fn stamp(run: &mut Run, seq: u32) {
        if !run.skipping {
            run.claim.stamp(Time::from_nanos(seq.into()));
        }
    }

    /// Calls `check` with the outcome of every interleaving of the two programs.
    fn interleave(
        left: &[Step],
        right: &[Step],
        done: &mut Vec<Step>,
        check: &mut impl FnMut(&[Step]),
    ) {
        if left.is_empty() && right.is_empty() {
            check(done);
        }
        for (first, rest_left, rest_right) in [
            left.split_first().map(|(first, rest)| (first, rest, right)),
            right.split_first().map(|(first, rest)| (first, left, rest)),
        ]
        .into_iter()
        .flatten()
        {
            done.push(*first);
            interleave(rest_left, rest_right, done, check);
            done.pop();
        }
    }

    #[test]
    fn in_every_interleaving_exactly_one_side_gets_the_task() {
        let mut interleavings = 0;
        interleave(&SUPERVISOR, &WORKER[..2], &mut Vec::new(), &mut |steps| {
            // The first task has been settled by now; the entry's next use follows, against
            // whatever of the worker's program is left for it.
            interleave(&REUSE, &WORKER[2..], &mut Vec::new(), &mut |more| {
                let mut run = Run::default();
                for step in steps.iter().chain(more) {
                    step(&mut run);
                }
                for seq in [1, 65] {
                    let begun = run.begun.iter().filter(|&&it| it == seq).count();
                    assert!(begun <= 1);
                    assert_ne!(begun == 1, run.revoked.contains(&seq));
                }
                interleavings += 1;
            });
        });
        assert_eq!(interleavings, 28 * 10);
    }
}
