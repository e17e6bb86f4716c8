//! Timeouts, memory limits, and how a task is stopped.

use std::time::Duration;

use crate::policy::event::Event;
use crate::policy::stopping::STACK_LIMIT;
use crate::task::Limits;

use super::fair::Manners;
use super::sim::{Did, End, Sim, ms, of_size, us, w};
use super::stories_of_tasks::quick;

fn timeout(timeout: Duration) -> Limits {
    Limits { timeout: Some(timeout), ..Limits::default() }
}

#[test]
fn a_timeout_of_zero_means_at_once() {
    let mut sim = Sim::ready(of_size(1, 1));
    let task = sim.submit(0, timeout(Duration::ZERO));
    assert_eq!(sim.end_of(task), Some(End::TimedOut));
    assert_eq!(sim.count(|did| matches!(did, Did::Send(..))), 0);
}

#[test]
fn a_deadline_counts_from_the_start_and_not_from_the_hand_over() {
    let mut sim = Sim::ready(of_size(1, 1));
    let task = sim.submit(0, timeout(ms(50)));
    sim.pass(ms(40));
    sim.begin(w(1));
    let began = sim.now();
    sim.pass(ms(49));
    assert!(!sim.has_done(Did::CaptureStack(w(1))));
    sim.pass(ms(10) + STACK_LIMIT);
    assert_eq!(sim.began_at(Did::CaptureStack(w(1))), Some(began + ms(50)));
    assert_eq!(sim.end_of(task), Some(End::TimedOut));
}

#[test]
fn the_stack_is_asked_for_before_the_kill_but_not_waited_for_long() {
    let mut sim = Sim::ready(of_size(1, 1));
    let task = sim.submit(0, timeout(ms(50)));
    sim.begin(w(1));
    let began = sim.now();
    sim.pass(ms(49) + STACK_LIMIT);
    assert_eq!(sim.end_of(task), None);
    sim.pass(ms(1));
    assert_eq!(sim.began_at(Did::Kill(w(1))), Some(began + ms(50) + STACK_LIMIT));
    assert_eq!(sim.end_of(task), Some(End::TimedOut));
}

#[test]
fn a_stack_that_comes_makes_the_kill_come_sooner() {
    let mut sim = Sim::ready(of_size(1, 1));
    let task = sim.submit(0, timeout(ms(50)));
    sim.begin(w(1));
    sim.pass(ms(50));
    sim.answer_stack(w(1));
    assert!(sim.has_done(Did::Kill(w(1))));
    assert_eq!(sim.end_of(task), Some(End::TimedOut));
}

#[test]
fn exit_handlers_of_user_code_get_their_grace_and_no_more() {
    let mut sim = Sim::ready(of_size(1, 1));
    sim.world.process(w(1)).has_exit_handlers = true;
    let task = sim.submit(0, timeout(ms(50)));
    sim.begin(w(1));
    sim.pass(ms(50));
    sim.answer_stack(w(1));
    assert!(sim.has_done(Did::RunExitHandlers(w(1))) && !sim.has_done(Did::Kill(w(1))));
    assert_eq!(sim.end_of(task), None);
    sim.pass(ms(1000));
    assert!(sim.has_done(Did::Kill(w(1))));
    assert_eq!(sim.end_of(task), Some(End::TimedOut));
}

#[test]
fn a_deadline_holds_for_a_task_whose_predecessors_result_was_never_announced() {
    let mut sim = quick(1);
    let first = sim.submit_plain();
    let second = sim.submit(0, timeout(ms(1)));
    sim.begin(w(1));
    sim.pass(us(10));
    sim.finish_quietly(w(1));
    sim.begin(w(1));
    let began = sim.now();
    sim.pass(ms(10) + STACK_LIMIT);
    assert_eq!(sim.end_of(first), Some(End::Returned));
    assert_eq!(sim.end_of(second), Some(End::TimedOut));
    assert!(sim.began_at(Did::CaptureStack(w(1))).unwrap() <= began + ms(3));
}

#[test]
fn a_task_that_times_out_takes_no_neighbour_along() {
    let mut sim = quick(1);
    let target = sim.submit(0, timeout(ms(1)));
    let behind = sim.submit_plain();
    sim.begin(w(1));
    sim.pass(ms(1));
    assert!(sim.has_done(Did::Recalled(behind)));
    sim.settle(Manners::Good);
    assert_eq!(sim.end_of(target), Some(End::TimedOut));
    assert_eq!(sim.end_of(behind), Some(End::Returned));
}

#[test]
fn a_worker_that_goes_on_at_the_very_deadline_is_spared() {
    let mut sim = quick(1);
    let target = sim.submit(0, timeout(ms(1)));
    let behind = sim.submit_plain();
    sim.begin(w(1));
    sim.world.steps_before_revoke = 2;
    sim.pass(ms(1));
    assert_eq!(sim.end_of(target), Some(End::Returned));
    sim.pass(ms(50));
    assert!(!sim.has_done(Did::CaptureStack(w(1))));
    sim.settle(Manners::Good);
    assert_eq!(sim.end_of(behind), Some(End::Returned));
}

#[test]
fn a_result_that_comes_after_the_stop_was_decided_is_too_late() {
    let mut sim = Sim::ready(of_size(1, 1));
    let task = sim.submit(0, timeout(ms(50)));
    sim.begin(w(1));
    sim.pass(ms(50));
    sim.finish(w(1));
    assert_eq!(sim.end_of(task), None);
    sim.settle(Manners::Good);
    assert_eq!(sim.end_of(task), Some(End::TimedOut));
}

#[test]
fn a_timed_out_task_is_not_retried_even_if_its_worker_dies_meanwhile() {
    for condemned in [false, true] {
        let mut sim = Sim::ready(of_size(1, 1));
        let task = sim.submit(0, Limits { retries: 3, ..timeout(ms(50)) });
        sim.begin(w(1));
        sim.pass(ms(50));
        if condemned {
            sim.condemn(w(1));
        } else {
            sim.die(w(1));
            sim.reap(w(1));
        }
        assert_eq!(sim.end_of(task), Some(End::TimedOut));
        sim.settle(Manners::Good);
        assert_eq!(sim.starts_of(task), 1);
    }
}

#[test]
fn a_result_that_comes_before_the_deadline_is_returned() {
    let mut sim = Sim::ready(of_size(1, 1));
    let task = sim.submit(0, timeout(ms(50)));
    sim.begin(w(1));
    sim.pass(ms(49));
    sim.finish(w(1));
    sim.pass(ms(100));
    assert_eq!(sim.end_of(task), Some(End::Returned));
    assert!(!sim.has_done(Did::CaptureStack(w(1))));
}

#[test]
fn a_worker_stopped_between_claim_and_stamp_meets_its_deadline_too() {
    let mut sim = Sim::ready(of_size(1, 1));
    let task = sim.submit(0, timeout(ms(50)));
    sim.world.step(w(1), false);
    sim.pass(ms(150) + STACK_LIMIT);
    assert_eq!(sim.end_of(task), Some(End::TimedOut));
}

#[test]
fn a_cancelled_task_that_goes_on_keeps_its_deadline() {
    let mut sim = Sim::ready(of_size(1, 1));
    let task = sim.submit(0, timeout(ms(50)));
    sim.begin(w(1));
    sim.cancel(task, None);
    sim.pass(ms(60) + STACK_LIMIT);
    assert!(sim.has_done(Did::Kill(w(1))));
}

#[test]
fn a_soft_timeout_is_raised_once() {
    let mut sim = Sim::ready(of_size(1, 1));
    let limits =
        Limits { soft_timeout: Some(ms(20)), memory_limit_bytes: Some(1000), ..timeout(ms(500)) };
    sim.submit(0, limits);
    sim.begin(w(1));
    let began = sim.now();
    sim.pass(ms(400));
    assert_eq!(sim.began_at(Did::Interrupt(w(1))), Some(began + ms(20)));
    assert_eq!(sim.count(|did| did == Did::Interrupt(w(1))), 1);
    // The worker is reminded a few times, less and less often.
    let again = sim.count(|did| did == Did::InterruptAgain(w(1)));
    assert!((3..6).contains(&again), "{again}");
}

#[test]
fn a_task_over_its_memory_limit_is_stopped() {
    let mut sim = Sim::ready(of_size(1, 1));
    let task = sim.submit(0, Limits { memory_limit_bytes: Some(1000), ..Limits::default() });
    sim.begin(w(1));
    sim.pass(ms(31));
    assert!(sim.samples.len() >= 2, "the first look comes at 10 ms, the others every 20 ms");
    let (worker, seq) = sim.samples[0];
    sim.feed(Event::MemorySampled { worker, seq, used_bytes: 1000 });
    assert!(!sim.has_done(Did::CaptureStack(w(1))));
    sim.tasks.get_mut(&task).unwrap().over_memory = true;
    sim.feed(Event::MemorySampled { worker, seq, used_bytes: 1001 });
    sim.pass(STACK_LIMIT);
    assert_eq!(sim.end_of(task), Some(End::MemoryExceeded));
}

#[test]
fn the_memory_of_one_task_is_not_held_against_the_next() {
    let mut sim = Sim::ready(of_size(1, 1));
    let limits = Limits { memory_limit_bytes: Some(1000), ..Limits::default() };
    let (first, second) = (sim.submit(0, limits), sim.submit(0, limits));
    sim.begin(w(1));
    sim.pass(ms(11));
    let (worker, seq) = sim.samples[0];
    sim.finish(w(1));
    sim.begin(w(1));
    sim.feed(Event::MemorySampled { worker, seq, used_bytes: 5000 });
    assert!(!sim.has_done(Did::CaptureStack(w(1))));
    sim.settle(Manners::Good);
    assert_eq!(sim.end_of(first), Some(End::Returned));
    assert_eq!(sim.end_of(second), Some(End::Returned));
}

#[test]
fn a_worker_that_survives_a_kill_does_not_block_the_pool() {
    let mut sim = Sim::ready(of_size(1, 1));
    sim.submit(0, timeout(ms(50)));
    sim.begin(w(1));
    sim.pass(ms(60) + STACK_LIMIT);
    assert!(sim.has_done(Did::Kill(w(1))));
    let next = sim.submit_plain();
    sim.boot(w(2));
    sim.finish(w(2));
    assert_eq!(sim.end_of(next), Some(End::Returned));
    sim.pass(ms(1000));
    assert_eq!(sim.count(|did| did == Did::Kill(w(1))), 2);
}
