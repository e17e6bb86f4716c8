//! How a pool ends.

use crate::policy::event::{Event, Shutdown};
use crate::task::Limits;

use super::fair::Manners;
use super::sim::{Did, End, Sim, ms, of_size, w};

/// Two workers that run a task each, and two tasks that wait.
fn under_load() -> (Sim, Vec<crate::ids::TaskId>) {
    let mut sim = Sim::ready(of_size(2, 2));
    let tasks = (0..4).map(|_| sim.submit_plain()).collect();
    sim.begin(w(1));
    sim.begin(w(2));
    (sim, tasks)
}

fn ends(sim: &Sim, tasks: &[crate::ids::TaskId]) -> Vec<Option<End>> {
    tasks.iter().map(|&task| sim.end_of(task)).collect()
}

#[test]
fn drain_runs_all_that_was_submitted() {
    let (mut sim, tasks) = under_load();
    sim.shut_down(Shutdown::Drain);
    sim.settle(Manners::Good);
    assert!(sim.terminated);
    assert_eq!(ends(&sim, &tasks), [Some(End::Returned); 4]);
}

#[test]
fn drain_grows_the_pool_if_it_has_to() {
    let mut sim = Sim::ready(of_size(2, 0));
    sim.settle(Manners::Good);
    let task = sim.submit_plain();
    sim.shut_down(Shutdown::Drain);
    sim.settle(Manners::Good);
    assert_eq!(sim.end_of(task), Some(End::Returned));
    assert!(sim.terminated);
}

#[test]
fn cancel_waiting_lets_finish_what_runs() {
    let (mut sim, tasks) = under_load();
    sim.shut_down(Shutdown::CancelWaiting);
    assert_eq!(ends(&sim, &tasks), [None, None, Some(End::Cancelled), Some(End::Cancelled)]);
    sim.settle(Manners::Good);
    assert!(sim.terminated);
    assert_eq!(ends(&sim, &tasks[..2]), [Some(End::Returned); 2]);
}

#[test]
fn cancel_waiting_lets_each_starting_worker_run_a_task() {
    let mut sim = Sim::new(of_size(2, 2));
    let tasks: Vec<_> = (0..4).map(|_| sim.submit_plain()).collect();
    sim.shut_down(Shutdown::CancelWaiting);
    assert_eq!(ends(&sim, &tasks), [None, None, Some(End::Cancelled), Some(End::Cancelled)]);
    sim.settle(Manners::Good);
    assert!(sim.terminated);
    assert_eq!(ends(&sim, &tasks[..2]), [Some(End::Returned); 2]);
}

#[test]
fn cancel_waiting_does_not_wait_for_workers_that_never_come() {
    let mut sim = Sim::new(of_size(1, 1));
    let task = sim.submit_plain();
    sim.shut_down(Shutdown::CancelWaiting);
    sim.fail_start(w(1));
    sim.settle(Manners::Stubborn);
    assert!(sim.terminated);
    assert!(sim.end_of(task).is_some());
}

#[test]
fn a_pool_that_has_ended_does_not_wait_for_a_back_off() {
    let mut sim = Sim::new(of_size(1, 1));
    sim.submit_plain();
    sim.fail_start(w(1));
    assert!(sim.pool.next_timer().is_some());
    sim.shut_down(Shutdown::Kill);
    assert!(sim.terminated);
    assert_eq!(sim.pool.next_timer(), None);
}

#[test]
fn cancel_all_kills_what_runs() {
    let (mut sim, tasks) = under_load();
    sim.shut_down(Shutdown::CancelAll);
    assert_eq!(ends(&sim, &tasks), [Some(End::Cancelled); 4]);
    assert!(sim.has_done(Did::Kill(w(1))) && sim.has_done(Did::Kill(w(2))));
    let from = sim.now();
    assert_eq!(sim.settle_from(from, Manners::Stubborn), ms(0));
}

#[test]
fn cancel_all_stops_a_task_that_was_given_up_before() {
    let mut sim = Sim::ready(of_size(1, 1));
    let task = sim.submit_plain();
    sim.begin(w(1));
    sim.cancel(task, None);
    sim.shut_down(Shutdown::CancelAll);
    let from = sim.now();
    assert!(sim.settle_from(from, Manners::Stubborn) <= ms(1));
}

#[test]
fn cancel_all_lets_idle_workers_run_their_finalizers_and_kill_does_not() {
    for (mode, retired) in [(Shutdown::CancelAll, true), (Shutdown::Kill, false)] {
        let mut sim = Sim::ready(of_size(1, 1));
        sim.shut_down(mode);
        assert_eq!(sim.has_done(Did::Retire(w(1))), retired);
        assert_eq!(sim.has_done(Did::Kill(w(1))), !retired);
    }
}

#[test]
fn kill_does_not_wait_for_exit_handlers() {
    let mut sim = Sim::ready(of_size(1, 1));
    sim.world.process(w(1)).has_exit_handlers = true;
    sim.submit_plain();
    sim.begin(w(1));
    sim.shut_down(Shutdown::Kill);
    assert!(sim.has_done(Did::Kill(w(1))));
}

#[test]
fn a_stricter_mode_takes_over_and_a_milder_one_does_not() {
    let (mut sim, tasks) = under_load();
    sim.shut_down(Shutdown::Drain);
    sim.shut_down(Shutdown::CancelWaiting);
    assert_eq!(sim.end_of(tasks[3]), Some(End::Cancelled));
    sim.shut_down(Shutdown::CancelAll);
    assert_eq!(ends(&sim, &tasks), [Some(End::Cancelled); 4]);
    sim.shut_down(Shutdown::Drain);
    sim.settle(Manners::Stubborn);
    assert!(sim.terminated);
    assert_eq!(sim.count(|did| did == Did::Terminated), 1);
}

#[test]
fn a_retry_is_not_begun_once_waiting_tasks_are_cancelled() {
    let mut sim = Sim::ready(of_size(1, 1));
    let task = sim.submit(0, Limits { retries: 5, ..Limits::default() });
    sim.begin(w(1));
    sim.shut_down(Shutdown::CancelWaiting);
    sim.die(w(1));
    sim.reap(w(1));
    assert_eq!(sim.end_of(task), Some(End::WorkerDied { attempts: 1 }));
    assert!(sim.terminated);
}

#[test]
fn a_start_without_an_answer_does_not_hold_up_the_end() {
    for mode in [Shutdown::Drain, Shutdown::CancelWaiting, Shutdown::CancelAll, Shutdown::Kill] {
        let mut sim = Sim::new(of_size(2, 2));
        sim.shut_down(mode);
        let from = sim.now();
        assert!(sim.settle_from(from, Manners::Undead) <= ms(1_000));
    }
}

#[test]
fn a_process_that_comes_after_its_pool_was_closed_is_killed() {
    let mut sim = Sim::new(of_size(1, 1));
    sim.shut_down(Shutdown::Drain);
    let kills = sim.count(|did| did == Did::Kill(w(1)));
    sim.fork(w(1));
    assert_eq!(sim.count(|did| did == Did::Kill(w(1))), kills + 1);
    sim.reap(w(1));
    assert!(sim.terminated);
}

#[test]
fn a_worker_that_was_cleared_while_it_started_does_not_hold_up_the_end() {
    let mut sim = Sim::new(of_size(1, 0));
    sim.fork(w(1));
    sim.feed(Event::ClearWorkers);
    sim.shut_down(Shutdown::Drain);
    let from = sim.now();
    assert!(sim.settle_from(from, Manners::Stubborn) <= ms(1));
}

#[test]
fn a_stopped_worker_is_sent_home_like_the_others() {
    let mut sim = Sim::ready(of_size(1, 1));
    let task = sim.submit_plain();
    sim.pass(ms(101));
    sim.cancel(task, None);
    sim.shut_down(Shutdown::Drain);
    assert!(sim.has_done(Did::Retire(w(1))));
    sim.settle(Manners::Stubborn);
    assert!(sim.terminated);
}

#[test]
fn a_finalizer_that_hangs_is_killed() {
    let mut sim = Sim::ready(of_size(1, 1));
    sim.shut_down(Shutdown::Drain);
    let from = sim.now();
    assert_eq!(sim.settle_from(from, Manners::Stubborn), ms(10_000));
}

#[test]
fn nothing_starts_again_after_the_end() {
    let mut sim = Sim::ready(of_size(2, 2));
    sim.shut_down(Shutdown::Drain);
    sim.settle(Manners::Good);
    assert!(sim.terminated);
    let starts = sim.count(|did| matches!(did, Did::Start(_)));
    sim.feed(Event::ClearWorkers);
    sim.feed(Event::Resize { max_workers: 8, min_workers: 8 });
    sim.shut_down(Shutdown::Kill);
    sim.submit_plain();
    assert_eq!(sim.count(|did| matches!(did, Did::Start(_))), starts);
    assert_eq!(sim.pool.next_timer(), None);
}

#[test]
fn a_process_that_can_not_be_killed_is_left_behind_in_the_end() {
    let (mut sim, _) = under_load();
    sim.shut_down(Shutdown::Kill);
    let from = sim.now();
    assert!(sim.settle_from(from, Manners::Undead) <= ms(11_000));
}
