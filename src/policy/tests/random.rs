//! Arbitrary histories.

use std::time::Duration;

use proptest::prelude::*;
use proptest::test_runner::Config;

use crate::ids::TaskId;
use crate::policy::config::PoolConfig;
use crate::policy::event::{Event, Shutdown};
use crate::task::Limits;

use super::fair::Manners;
use super::sim::{Known, Sim, ms, us};

/// Histories tried by default; the environment variable `PROPTEST_CASES` sets another number.
const CASES: u32 = 150;

/// Events of a history, at most; the environment variable `HISTORY_LENGTH` sets another number.
fn longest(usual: usize) -> usize {
    std::env::var("HISTORY_LENGTH").ok().and_then(|len| len.parse().ok()).unwrap_or(usual)
}

#[derive(Clone, Debug)]
enum Op {
    Submit { priority: u32, limits: Limits },
    SubmitTakenBack,
    Burst { tasks: usize, timeout: Option<Duration> },
    Cancel { which: usize, kill: Option<i32> },
    Watch { which: usize },
    Worker { which: usize, what: Deed },
    Work { which: usize, steps: u8, each: Duration },
    Pass(Duration),
    Resize { max_workers: usize, min_workers: usize },
    Clear,
    Shutdown(Shutdown),
}

/// What one process does.
#[derive(Clone, Copy, Debug)]
enum Deed {
    Fork,
    Boot,
    FailStart,
    FailInitializer,
    Step { stamped: bool },
    Collect { raised: bool, recycle: bool },
    SayAlive,
    Die,
    Reap,
    Condemn,
    AnswerStack,
    AnswerExitHandlers,
    RegisterExitHandler,
    ReportMemory { over: bool },
}

impl Sim {
    fn perform(&mut self, op: &Op) {
        match *op {
            Op::Submit { priority, limits } => {
                self.submit(priority, limits);
            }
            Op::SubmitTakenBack => {
                self.submit_taken_back();
            }
            Op::Burst { tasks, timeout } => (0..tasks).for_each(|_| {
                self.submit(0, Limits { timeout, ..Limits::default() });
            }),
            Op::Cancel { which, kill } => {
                if let Some(task) = self.cancellable(which) {
                    self.cancel(task, kill);
                }
            }
            Op::Watch { which } => {
                if let Some(task) = self.recent(which).filter(|task| !self.tasks[task].watched) {
                    self.watch(task);
                }
            }
            Op::Worker { which, what } => {
                let alive = self.alive();
                if !alive.is_empty() {
                    self.perform_deed(alive[which % alive.len()], what);
                }
            }
            Op::Work { which, steps, each } => {
                for _ in 0..steps {
                    let alive = self.alive();
                    if alive.is_empty() {
                        return;
                    }
                    let id = alive[which % alive.len()];
                    self.world.step(id, true);
                    self.pass(each);
                }
            }
            Op::Pass(time) => self.pass(time),
            Op::Resize { max_workers, min_workers } => {
                self.feed(Event::Resize { max_workers, min_workers });
            }
            Op::Clear => self.feed(Event::ClearWorkers),
            Op::Shutdown(mode) => self.shut_down(mode),
        }
    }

    /// A task that has not ended, or that was given up before and may still run.
    fn cancellable(&self, which: usize) -> Option<TaskId> {
        let wanted = |known: &&Known| known.end.is_none() || known.given_up;
        let tasks: Vec<_> = self.tasks.values().rev().filter(wanted).take(64).collect();
        (!tasks.is_empty()).then(|| tasks[which % tasks.len()].spec.id)
    }

    /// A task that has not ended.
    fn recent(&self, which: usize) -> Option<TaskId> {
        let open: Vec<_> =
            self.tasks.iter().filter(|(_, known)| known.end.is_none()).map(|(&id, _)| id).collect();
        (!open.is_empty()).then(|| open[which % open.len()])
    }

    fn perform_deed(&mut self, id: crate::ids::WorkerId, what: Deed) {
        let process = self.world.process(id);
        let acts = process.acts();
        let young = process.forked && !process.ready && !process.gone && !process.killed;
        match what {
            Deed::Fork if !process.forked && !process.gone => self.fork(id),
            Deed::Boot if young => self.boot(id),
            Deed::FailStart if !process.forked => self.fail_start(id),
            Deed::FailInitializer if young => {
                process.gone = true;
                self.initializer_failures += 1;
                self.feed(Event::InitializerFailed { worker: id, exception: Vec::new() });
            }
            Deed::Step { stamped } => {
                self.world.step(id, stamped);
            }
            Deed::Collect { raised, recycle } => self.collect_as(id, raised, recycle),
            Deed::SayAlive if process.skipped && acts => self.say_alive(id),
            Deed::Die if process.forked && !process.gone => self.die(id),
            Deed::Reap if process.forked && (process.gone || process.killed) => self.reap(id),
            Deed::Reap if process.forked && process.retiring && process.running.is_none() => {
                self.reap(id);
            }
            Deed::Condemn if process.forked => self.condemn(id),
            Deed::AnswerStack if process.wants_stack && acts => self.answer_stack(id),
            Deed::AnswerExitHandlers if process.wants_exit_handlers && acts => {
                self.answer_exit_handlers(id);
            }
            Deed::RegisterExitHandler => process.has_exit_handlers = true,
            Deed::ReportMemory { over } => self.report_memory(over),
            _ => {}
        }
    }

    fn report_memory(&mut self, over: bool) {
        let Some((worker, seq)) = self.samples.pop() else {
            return;
        };
        let running = self.world.processes.get(&worker).and_then(|process| process.running);
        if let Some(running) = running.filter(|running| running.seq == seq) {
            self.tasks.get_mut(&running.task).expect("a task that was submitted").over_memory |=
                over;
        }
        // A worker that went on is not the one that was measured.
        let used_bytes =
            if over && running.is_some_and(|running| running.seq == seq) { 2000 } else { 10 };
        self.feed(Event::MemorySampled { worker, seq, used_bytes });
    }
}

fn durations() -> impl Strategy<Value = Duration> {
    prop_oneof![
        Just(us(1)),
        Just(us(30)),
        Just(us(400)),
        Just(ms(1)),
        Just(ms(3)),
        Just(ms(20)),
        Just(ms(99)),
        Just(ms(250)),
        Just(ms(1100)),
        Just(ms(6000)),
    ]
}

fn limits() -> impl Strategy<Value = Limits> {
    let timeout = prop_oneof![
        4 => Just(None),
        1 => Just(Some(Duration::ZERO)),
        4 => durations().prop_map(Some),
    ];
    let soft = prop_oneof![4 => Just(None), 1 => Just(Some(Duration::ZERO)), 1 => durations().prop_map(Some)];
    (timeout, soft, any::<bool>(), 0u32..3).prop_map(|(timeout, soft_timeout, memory, retries)| {
        Limits { timeout, soft_timeout, memory_limit_bytes: memory.then_some(1000), retries }
    })
}

fn deeds() -> impl Strategy<Value = Deed> {
    prop_oneof![
        4 => Just(Deed::Fork),
        8 => Just(Deed::Boot),
        1 => Just(Deed::FailStart),
        1 => Just(Deed::FailInitializer),
        16 => prop::bool::weighted(0.9).prop_map(|stamped| Deed::Step { stamped }),
        12 => (prop::bool::weighted(0.2), prop::bool::weighted(0.1)).prop_map(|(raised, recycle)| Deed::Collect { raised, recycle }),
        3 => Just(Deed::SayAlive),
        2 => Just(Deed::Die),
        6 => Just(Deed::Reap),
        1 => Just(Deed::Condemn),
        2 => Just(Deed::AnswerStack),
        2 => Just(Deed::AnswerExitHandlers),
        1 => Just(Deed::RegisterExitHandler),
        2 => any::<bool>().prop_map(|over| Deed::ReportMemory { over }),
    ]
}

fn ops() -> impl Strategy<Value = Op> {
    let kill = prop_oneof![2 => Just(None), 2 => Just(Some(libc::SIGKILL)), 1 => Just(Some(libc::SIGTERM))];
    let mode = prop_oneof![
        Just(Shutdown::Drain),
        Just(Shutdown::CancelWaiting),
        Just(Shutdown::Terminate),
        Just(Shutdown::CancelAll),
        Just(Shutdown::Kill),
    ];
    prop_oneof![
        120 => (0u32..3, limits()).prop_map(|(priority, limits)| Op::Submit { priority, limits }),
        10 => Just(Op::SubmitTakenBack),
        20 => (1usize..40, prop_oneof![Just(None), durations().prop_map(Some)])
            .prop_map(|(tasks, timeout)| Op::Burst { tasks, timeout }),
        40 => (0usize..64, kill).prop_map(|(which, kill)| Op::Cancel { which, kill }),
        20 => (0usize..64).prop_map(|which| Op::Watch { which }),
        400 => (0usize..8, deeds()).prop_map(|(which, what)| Op::Worker { which, what }),
        120 => (0usize..8, 1u8..40, prop_oneof![Just(us(1)), Just(us(20)), Just(us(200))])
            .prop_map(|(which, steps, each)| Op::Work { which, steps, each }),
        120 => durations().prop_map(Op::Pass),
        12 => (0usize..6, 0usize..6).prop_map(|(max_workers, min_workers)| Op::Resize { max_workers, min_workers }),
        6 => Just(Op::Clear),
        1 => mode.prop_map(Op::Shutdown),
    ]
}

fn configs() -> impl Strategy<Value = PoolConfig> {
    let max_tasks = prop_oneof![2 => Just(None), 1 => (1u64..8).prop_map(Some)];
    let idle = prop_oneof![Just(ms(200)), Just(ms(0)), Just(ms(1))];
    let grace = prop_oneof![Just(ms(1000)), Just(ms(0)), Just(ms(50))];
    (1usize..5, 1usize..5, 1usize..5, 0usize..5, max_tasks, idle, grace, any::<bool>()).prop_map(
        |(
            max_workers,
            enough_brisk,
            starts_at_once,
            min_workers,
            max_tasks_per_child,
            idle_timeout,
            kill_grace_period,
            fail_on_initializer_error,
        )| {
            PoolConfig {
                max_workers,
                enough_brisk,
                starts_at_once,
                min_workers: min_workers.min(max_workers),
                max_tasks_per_child,
                idle_timeout,
                kill_grace_period,
                start_timeout: ms(30_000),
                fail_on_initializer_error,
            }
        },
    )
}

fn cases() -> Config {
    let wanted = std::env::var("PROPTEST_CASES").ok().and_then(|cases| cases.parse().ok());
    Config {
        cases: wanted.unwrap_or(CASES),
        failure_persistence: None,
        max_shrink_iters: 20_000,
        ..Config::default()
    }
}

proptest! {
    #![proptest_config(cases())]

    /// Whatever happens, every task ends once and rightly, and the pool comes to rest.
    #[test]
    fn every_history_ends_well(
        config in configs(),
        race in any::<u64>(),
        history in prop::collection::vec(ops(), 1..longest(250)),
    ) {
        let mut sim = Sim::new(config);
        sim.world.race = race;
        for op in &history {
            sim.perform(op);
        }
        sim.settle(Manners::Good);
        sim.check_at_rest();
        sim.shut_down(Shutdown::Drain);
        sim.settle(Manners::Good);
        prop_assert!(sim.terminated);
        sim.check_at_rest();
    }

    /// A pool that is told to end does so, in bounded time, whatever hangs.
    #[test]
    fn every_history_can_be_ended(
        config in configs(),
        race in any::<u64>(),
        history in prop::collection::vec(ops(), 1..longest(120)),
        last in prop_oneof![
            Just((Shutdown::CancelAll, Manners::Stubborn)),
            Just((Shutdown::Kill, Manners::Stubborn)),
            Just((Shutdown::Kill, Manners::Undead)),
        ],
    ) {
        let (mode, manners) = last;
        let grace = config.kill_grace_period;
        let mut sim = Sim::new(config);
        sim.world.race = race;
        for op in &history {
            sim.perform(op);
        }
        let from = sim.now();
        sim.shut_down(mode);
        let pending = sim.tasks.values().filter(|task| task.end.is_none()).count();
        prop_assert_eq!(pending, 0);
        let took = sim.settle_from(from, manners);
        let bound = match (mode, manners) {
            (_, Manners::Undead) => ms(15_000),
            (Shutdown::Kill, _) => ms(2_500),
            _ => grace * 12 + ms(8_000),
        };
        prop_assert!(took <= bound, "it took {took:?}, more than {bound:?}");
        sim.check_at_rest();
    }
}
