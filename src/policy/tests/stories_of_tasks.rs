//! Which task runs where, and how often.

use crate::ids::WorkerId;
use crate::policy::config::PoolConfig;
use crate::policy::event::{Event, Shutdown};
use crate::task::Limits;

use super::fair::Manners;
use super::sim::{Did, End, Sim, ms, of_size, us, w};

fn with_retries(retries: u32) -> Limits {
    Limits { retries, ..Limits::default() }
}

/// A worker of a pool of `max_workers` that has proved to be quick, so that tasks are sent ahead.
pub fn quick(max_workers: usize) -> Sim {
    quickened(of_size(max_workers, max_workers))
}

fn quickened(config: PoolConfig) -> Sim {
    let max_workers = config.max_workers;
    let mut sim = Sim::ready(config);
    for _ in 0..8 {
        for _ in 0..max_workers {
            sim.submit_plain();
        }
        for id in sim.alive() {
            while !sim.pool.workers[&id].queue.is_empty() {
                sim.begin(id);
                sim.pass(us(5));
                sim.finish(id);
            }
        }
    }
    sim
}

#[test]
fn a_task_that_had_not_begun_is_run_elsewhere_when_its_worker_dies() {
    let mut sim = Sim::ready(of_size(1, 1));
    let task = sim.submit_plain();
    sim.die(w(1));
    sim.reap(w(1));
    sim.settle(Manners::Good);
    assert_eq!(sim.end_of(task), Some(End::Returned));
    assert_eq!(sim.starts_of(task), 1);
}

#[test]
fn a_task_that_had_begun_is_not_run_again() {
    let mut sim = Sim::ready(of_size(1, 1));
    let task = sim.submit_plain();
    sim.begin(w(1));
    sim.die(w(1));
    sim.reap(w(1));
    assert_eq!(sim.end_of(task), Some(End::WorkerDied { attempts: 1 }));
    sim.settle(Manners::Good);
    assert_eq!(sim.starts_of(task), 1);
}

#[test]
fn a_result_that_waits_in_the_ring_survives_the_death_of_its_worker() {
    let mut sim = Sim::ready(of_size(1, 1));
    let task = sim.submit_plain();
    sim.begin(w(1));
    sim.finish_quietly(w(1));
    sim.die(w(1));
    sim.reap(w(1));
    assert_eq!(sim.end_of(task), Some(End::Returned));
}

#[test]
fn retries_run_a_task_again_as_often_as_was_asked_for() {
    let mut sim = Sim::ready(of_size(1, 1));
    let task = sim.submit(0, with_retries(2));
    for worker in 1..=3 {
        assert_eq!(sim.end_of(task), None);
        sim.settle_start();
        sim.begin(w(worker));
        sim.die(w(worker));
        sim.reap(w(worker));
    }
    assert_eq!(sim.end_of(task), Some(End::WorkerDied { attempts: 3 }));
}

#[test]
fn an_exception_is_not_retried() {
    let mut sim = Sim::ready(of_size(1, 1));
    let task = sim.submit(0, with_retries(2));
    sim.begin(w(1));
    sim.finish_quietly(w(1));
    sim.collect_as(w(1), true, false);
    assert_eq!(sim.end_of(task), Some(End::Raised));
}

#[test]
fn a_worker_that_sends_rubbish_fails_its_task_and_nobody_elses() {
    let mut sim = quick(1);
    let (first, second) = (sim.submit_plain(), sim.submit_plain());
    sim.begin(w(1));
    sim.condemn(w(1));
    assert_eq!(sim.end_of(first), Some(End::Condemned));
    assert!(sim.has_done(Did::Kill(w(1))) && sim.has_done(Did::Recalled(second)));
    sim.settle(Manners::Good);
    assert_eq!(sim.end_of(second), Some(End::Returned));
}

#[test]
fn a_lower_number_goes_first_and_equals_in_their_order() {
    let mut sim = Sim::ready(of_size(1, 1));
    let blocker = sim.submit_plain();
    let late = sim.submit(9, Limits::default());
    let first = sim.submit(5, Limits::default());
    let second = sim.submit(5, Limits::default());
    let urgent = sim.submit(0, Limits::default());
    sim.settle(Manners::Good);
    let sent: Vec<_> = sim
        .did
        .iter()
        .filter_map(|&(_, did)| if let Did::Send(_, task) = did { Some(task) } else { None })
        .collect();
    assert_eq!(sent, [blocker, urgent, first, second, late]);
}

#[test]
fn one_task_is_sent_at_a_time_until_tasks_prove_short() {
    let mut sim = Sim::ready(of_size(1, 1));
    for _ in 0..40 {
        sim.submit_plain();
    }
    let mut windows = Vec::new();
    for _ in 0..6 {
        windows.push(sim.pool.workers[&w(1)].queue.len());
        sim.begin(w(1));
        sim.pass(us(10));
        sim.finish(w(1));
    }
    assert_eq!(windows, [1, 2, 4, 8, 16, 32]);
}

#[test]
fn what_waits_behind_a_suddenly_long_task_is_given_to_an_idle_worker() {
    let mut sim = quick(2);
    let long = sim.submit_plain();
    let other = sim.submit_plain();
    let behind: Vec<_> = (0..6).map(|_| sim.submit_plain()).collect();
    let (here, there) = (sim.place_of(long).unwrap(), sim.place_of(other).unwrap());
    assert_ne!(here, there);
    sim.begin(here);
    assert!(behind.iter().any(|&task| sim.place_of(task) == Some(here)));
    sim.pass(us(2_500));
    for &task in &behind {
        assert_ne!(sim.place_of(task), Some(here));
    }
    while !sim.pool.workers[&there].queue.is_empty() {
        sim.finish(there);
    }
    assert!(behind.iter().all(|&task| sim.end_of(task) == Some(End::Returned)));
    assert_eq!(sim.end_of(long), None);
}

/// A pool of eight workers with short tasks, of which four are enough.
fn with_enough() -> Sim {
    let sim = quickened(PoolConfig { enough_brisk: 4, ..of_size(8, 8) });
    assert_eq!(busy(&sim).len(), 0);
    sim
}

/// The workers that have tasks.
fn busy(sim: &Sim) -> Vec<WorkerId> {
    let mut ids = sim.alive();
    ids.retain(|id| !sim.pool.workers[id].queue.is_empty());
    ids
}

#[test]
fn no_more_workers_are_woken_for_short_tasks_than_are_enough() {
    let mut sim = with_enough();
    for _ in 0..500 {
        sim.submit_plain();
    }
    assert_eq!(busy(&sim).len(), 4);
    assert!(!sim.pool.is_hungry() && !sim.pool.has_idle_worker());
    sim.settle(Manners::Good);
    sim.check_at_rest();
}

#[test]
fn tasks_that_turn_out_long_get_a_worker_each_at_once() {
    let mut sim = with_enough();
    for _ in 0..8 {
        sim.submit_plain();
    }
    let first = busy(&sim);
    assert_eq!(first.len(), 4);
    for id in first {
        sim.begin(id);
    }
    sim.pass(us(2_500));
    assert_eq!(busy(&sim).len(), 8);
}

#[test]
fn one_long_task_among_short_ones_wakes_one_more() {
    let mut sim = with_enough();
    for _ in 0..500 {
        sim.submit_plain();
    }
    let long = busy(&sim)[0];
    sim.begin(long);
    sim.pass(us(2_500));
    assert_eq!(sim.pool.workers[&long].queue.len(), 1);
    assert_eq!(busy(&sim).len(), 5);
}

#[test]
fn results_that_a_worker_keeps_to_itself_are_fetched() {
    let mut sim = quick(1);
    let (first, second) = (sim.submit_plain(), sim.submit_plain());
    sim.begin(w(1));
    sim.finish_quietly(w(1));
    sim.begin(w(1));
    sim.pass(us(2_500));
    assert_eq!(sim.end_of(first), Some(End::Returned));
    assert_eq!(sim.end_of(second), None);
}

#[test]
fn sending_and_taking_back_never_overwrites_the_claim_of_what_runs() {
    let mut sim = quick(1);
    let running = sim.submit_plain();
    sim.begin(w(1));
    // The model watches the entries.
    for _ in 0..200 {
        let task = sim.submit_plain();
        sim.cancel(task, None);
    }
    sim.finish(w(1));
    assert_eq!(sim.end_of(running), Some(End::Returned));
    sim.settle(Manners::Good);
}

#[test]
fn a_waiting_task_that_is_cancelled_never_runs() {
    let mut sim = quick(1);
    let (first, second) = (sim.submit_plain(), sim.submit_plain());
    sim.begin(w(1));
    sim.cancel(second, None);
    sim.settle(Manners::Good);
    assert_eq!((sim.starts_of(first), sim.starts_of(second)), (1, 0));
}

#[test]
fn a_running_task_that_is_cancelled_goes_on_and_its_result_is_thrown_away() {
    let mut sim = Sim::ready(of_size(1, 1));
    let task = sim.submit_plain();
    sim.begin(w(1));
    sim.cancel(task, None);
    assert_eq!(sim.end_of(task), Some(End::Cancelled));
    sim.finish(w(1));
    sim.settle(Manners::Good);
    assert!(!sim.has_done(Did::Kill(w(1))));
}

#[test]
fn a_task_that_was_given_up_can_still_be_stopped() {
    let mut sim = Sim::ready(of_size(1, 1));
    let task = sim.submit_plain();
    sim.begin(w(1));
    sim.cancel(task, None);
    sim.cancel(task, Some(libc::SIGTERM));
    assert!(sim.has_done(Did::Signal(w(1), libc::SIGTERM)));
    sim.cancel(task, Some(libc::SIGKILL));
    assert!(sim.has_done(Did::Kill(w(1))));
}

#[test]
fn cancel_and_kill_hits_no_neighbour() {
    let mut sim = quick(1);
    let before = sim.submit_plain();
    let target = sim.submit_plain();
    let behind = sim.submit_plain();
    sim.begin(w(1));
    sim.finish_quietly(w(1));
    sim.begin(w(1));
    // The result of the first waits in the ring; the third has not begun.
    sim.cancel(target, Some(libc::SIGKILL));
    assert!(sim.has_done(Did::Kill(w(1))));
    sim.settle(Manners::Good);
    let ends = [before, target, behind].map(|task| sim.end_of(task).unwrap());
    assert_eq!(ends, [End::Returned, End::Cancelled, End::Returned]);
    assert_eq!(sim.starts_of(behind), 1);
}

#[test]
fn a_kill_that_comes_too_late_spares_the_task_behind() {
    let mut sim = quick(1);
    let (target, behind) = (sim.submit_plain(), sim.submit_plain());
    sim.begin(w(1));
    sim.finish_quietly(w(1));
    sim.begin(w(1));
    sim.cancel(target, Some(libc::SIGKILL));
    assert!(!sim.has_done(Did::Kill(w(1))));
    sim.settle(Manners::Good);
    assert_eq!(sim.end_of(behind), Some(End::Returned));
}

#[test]
fn another_signal_has_the_grace_period_to_work() {
    let mut sim = Sim::ready(of_size(1, 1));
    let task = sim.submit_plain();
    sim.begin(w(1));
    sim.cancel(task, Some(libc::SIGTERM));
    assert!(sim.has_done(Did::Signal(w(1), libc::SIGTERM)));
    sim.pass(ms(999));
    assert!(!sim.has_done(Did::Kill(w(1))));
    sim.pass(ms(1));
    assert!(sim.has_done(Did::Kill(w(1))));
}

#[test]
fn whoever_watches_is_told_once_that_a_task_began() {
    let mut sim = Sim::ready(of_size(1, 1));
    let (early, late) = (sim.submit_plain(), sim.submit_plain());
    sim.watch(early);
    sim.begin(w(1));
    sim.pass(ms(1));
    assert!(sim.has_done(Did::Began(early)));
    sim.finish(w(1));
    sim.begin(w(1));
    sim.watch(late);
    assert!(sim.has_done(Did::Began(late)));
    sim.settle(Manners::Good);
    assert_eq!(sim.count(|did| matches!(did, Did::Began(_))), 2);
}

#[test]
fn whoever_watches_is_told_of_each_start_of_a_task_that_is_tried_again() {
    for watched_before in [true, false] {
        let mut sim = Sim::ready(of_size(2, 2));
        let task = sim.submit(1, with_retries(1));
        if watched_before {
            sim.watch(task);
        }
        let first = sim.place_of(task).unwrap();
        sim.begin(first);
        if !watched_before {
            sim.watch(task);
        }
        sim.pass(ms(1));
        sim.die(first);
        sim.reap(first);
        let second = sim.place_of(task).unwrap();
        sim.begin(second);
        sim.pass(ms(1));
        assert_eq!(sim.count(|did| did == Did::Began(task)), 2);
        sim.finish(second);
        assert_eq!(sim.end_of(task), Some(End::Returned));
    }
}

#[test]
fn a_stopped_worker_can_not_keep_a_task_that_it_has_not_begun() {
    let mut sim = Sim::ready(of_size(2, 2));
    let task = sim.submit_plain();
    let stuck = sim.place_of(task).unwrap();
    sim.pass(ms(101));
    let there = sim.place_of(task).unwrap();
    assert_ne!(there, stuck);
    sim.finish(there);
    assert_eq!(sim.end_of(task), Some(End::Returned));
    // It gets no other task, until it shows life.
    for _ in 0..3 {
        let task = sim.submit_plain();
        assert_ne!(sim.place_of(task), Some(stuck));
        sim.cancel(task, None);
    }
    sim.world.step(stuck, true);
    sim.say_alive(stuck);
    assert!(sim.pool.workers[&stuck].takes_tasks() || sim.has_done(Did::Retire(stuck)));
}

#[test]
fn a_worker_that_shows_life_again_stays_and_its_helper_goes() {
    // The helper has not begun to start, starts, has nothing to do, or runs a task.
    for stage in 0..4 {
        let mut sim = Sim::ready(of_size(1, 1));
        sim.submit_plain();
        sim.finish(w(1));
        let task = sim.submit_plain();
        sim.pass(ms(101));
        if stage > 0 {
            sim.fork(w(2));
        }
        if stage > 1 {
            sim.boot(w(2));
            sim.begin(w(2));
        }
        if stage == 2 {
            sim.finish(w(2));
        }
        sim.world.step(w(1), true);
        sim.say_alive(w(1));
        if stage < 2 {
            assert_eq!(sim.place_of(task), Some(w(1)));
            sim.begin(w(1));
        }
        sim.settle(Manners::Good);
        assert_eq!(sim.end_of(task), Some(End::Returned));
        assert_eq!(sim.alive(), [w(1)], "stage {stage}");
    }
}

#[test]
fn a_worker_that_has_done_nothing_leaves_its_place_to_the_helper_that_took_over() {
    let mut sim = Sim::ready(of_size(1, 1));
    sim.submit_plain();
    // The next start is held back a little, since this one has come to nothing so far.
    sim.pass(ms(150));
    sim.fork(w(2));
    sim.boot(w(2));
    sim.begin(w(2));
    sim.world.step(w(1), true);
    sim.say_alive(w(1));
    sim.settle(Manners::Good);
    assert_eq!(sim.alive(), [w(2)]);
}

#[test]
fn a_worker_that_never_shows_life_again_is_killed() {
    let mut sim = Sim::ready(of_size(1, 1));
    let task = sim.submit_plain();
    sim.pass(ms(5_200));
    assert!(sim.has_done(Did::Kill(w(1))));
    sim.settle(Manners::Good);
    assert_eq!(sim.end_of(task), Some(End::Returned));
}

#[test]
fn a_task_that_arrives_after_the_end_is_cancelled() {
    let mut sim = Sim::ready(of_size(1, 1));
    sim.shut_down(Shutdown::Drain);
    sim.settle(Manners::Good);
    assert!(sim.terminated);
    let task = sim.submit_plain();
    assert_eq!(sim.end_of(task), Some(End::Cancelled));
}

#[test]
fn a_task_that_was_taken_back_on_its_way_is_sent_to_nobody() {
    let mut sim = Sim::ready(of_size(1, 1));
    let task = sim.submit_taken_back();
    assert_eq!(sim.end_of(task), Some(End::Cancelled));
    sim.settle(Manners::Good);
    assert_eq!(sim.pool.statistics().tasks_received, 1);
    assert_eq!(sim.pool.statistics().tasks_launched, 0);
}

#[test]
fn an_abandoned_pool_gives_every_task_back_and_wants_nothing() {
    let mut sim = Sim::ready(of_size(1, 1));
    for _ in 0..5 {
        sim.submit_plain();
    }
    let ends = sim.pool.abandon(|| crate::outcome::Outcome::Cancelled);
    assert_eq!(ends.len(), 5);
    assert!(
        sim.pool.is_terminated() && sim.pool.next_timer().is_none() && sim.pool.backlog_len() == 0
    );
    let mut actions = Vec::new();
    sim.pool.handle(Event::Timer, sim.world.now, &mut sim.world, &mut actions);
    assert!(actions.is_empty());
}
