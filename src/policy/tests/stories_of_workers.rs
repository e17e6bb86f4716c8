//! How many workers there are, and what becomes of starts.

use crate::ids::WorkerId;
use crate::policy::config::PoolConfig;
use crate::policy::event::Event;
use crate::task::Limits;

use super::fair::Manners;
use super::sim::{Did, End, Sim, ms, of_size, w};
use super::stories_of_tasks::quick;

impl Sim {
    /// Whatever is being started gets ready, once its time has come.
    pub fn settle_start(&mut self) {
        while !self
            .alive()
            .iter()
            .any(|id| self.world.processes[id].ready && !self.world.processes[id].gone)
        {
            match self.alive().into_iter().find(|id| !self.world.processes[id].ready) {
                Some(id) => self.boot(id),
                None => self.pass(ms(5)),
            }
        }
    }

    fn newest(&self) -> WorkerId {
        *self.world.processes.keys().last().expect("a worker")
    }

    fn starts(&self) -> usize {
        self.count(|did| matches!(did, Did::Start(_)))
    }
}

#[test]
fn an_idle_pool_shrinks_to_its_least_size_and_then_sleeps() {
    for least in [0, 2] {
        let mut sim = Sim::ready(of_size(4, least));
        sim.pass(ms(199));
        assert_eq!(sim.count(|did| matches!(did, Did::Retire(_))), 0);
        sim.pass(ms(1));
        assert_eq!(sim.count(|did| matches!(did, Did::Retire(_))), 4 - least);
        sim.settle(Manners::Good);
        assert_eq!(sim.pool.workers.len(), least);
        assert_eq!(sim.pool.next_timer(), None);
    }
}

#[test]
fn a_pool_grows_again_when_there_is_work() {
    let mut sim = Sim::ready(of_size(3, 0));
    sim.settle(Manners::Good);
    assert_eq!(sim.pool.workers.len(), 0);
    assert!(sim.pool.is_hungry());
    for _ in 0..5 {
        sim.submit_plain();
    }
    assert_eq!(sim.pool.workers.len(), 3);
    assert!(!sim.pool.is_hungry());
    sim.settle(Manners::Good);
    sim.check_at_rest();
}

#[test]
fn the_successor_is_ready_before_a_worker_is_recycled() {
    let config = PoolConfig { max_tasks_per_child: Some(1), ..of_size(2, 1) };
    let mut sim = Sim::ready(config);
    let tasks: Vec<_> = (0..6).map(|_| sim.submit_plain()).collect();
    assert_eq!(sim.starts(), 4, "two run their last task, two are to follow");
    sim.boot(w(3));
    sim.boot(w(4));
    assert_eq!(sim.pool.census.busy, 2);
    sim.finish(w(1));
    assert!(sim.has_done(Did::Retire(w(1))));
    assert_eq!(sim.pool.census.busy, 2, "the successor took over at once");
    sim.settle(Manners::Good);
    assert!(tasks.iter().all(|&task| sim.end_of(task) == Some(End::Returned)));
    sim.check_at_rest();
}

#[test]
fn a_worker_runs_no_more_tasks_than_it_may() {
    let config = PoolConfig { max_tasks_per_child: Some(3), ..of_size(1, 1) };
    let mut sim = Sim::ready(config);
    for _ in 0..10 {
        sim.submit_plain();
    }
    sim.settle(Manners::Good);
    for id in 1..=4 {
        let sent = sim.count(|did| matches!(did, Did::Send(worker, _) if worker == w(id)));
        assert_eq!(sent, if id == 4 { 1 } else { 3 });
    }
}

#[test]
fn a_worker_that_asks_to_be_replaced_is() {
    let mut sim = Sim::ready(of_size(1, 1));
    let (first, second) = (sim.submit_plain(), sim.submit_plain());
    sim.begin(w(1));
    sim.finish_quietly(w(1));
    sim.collect_as(w(1), false, true);
    assert_eq!(sim.end_of(first), Some(End::Returned));
    assert!(sim.has_done(Did::Retire(w(1))));
    sim.settle(Manners::Good);
    assert_eq!(sim.end_of(second), Some(End::Returned));
    assert_eq!(sim.world.starts[&second][0].worker, w(2));
}

#[test]
fn a_retired_worker_that_stays_is_killed() {
    let mut sim = Sim::ready(of_size(2, 1));
    sim.pass(ms(10_199));
    assert_eq!(sim.count(|did| matches!(did, Did::Kill(_))), 0);
    sim.pass(ms(1));
    assert_eq!(sim.count(|did| matches!(did, Did::Kill(_))), 1);
}

#[test]
fn starts_back_off_from_10_ms_doubling_to_5_s() {
    let mut sim = Sim::new(of_size(1, 1));
    let mut delays = Vec::new();
    for _ in 0..12 {
        let failed = sim.now();
        sim.fail_start(sim.newest());
        let at = sim.pool.next_timer().unwrap();
        delays.push(at.since(failed).as_millis());
        assert!(sim.pool.workers.is_empty());
        sim.pass(at.since(failed));
        assert_eq!(sim.pool.workers.len(), 1);
    }
    assert_eq!(delays, [10, 20, 40, 80, 160, 320, 640, 1280, 2560, 5000, 5000, 5000]);
}

#[test]
fn whoever_is_to_make_a_process_is_told_to_go_on_until_it_has() {
    let mut sim = Sim::new(of_size(1, 1));
    sim.pass(ms(3500));
    assert_eq!(sim.count(|did| did == Did::Nudge(w(1))), 3);
    sim.fork(w(1));
    sim.pass(ms(10_000));
    assert_eq!(sim.count(|did| did == Did::Nudge(w(1))), 3);
    sim.boot(w(1));
    sim.settle(Manners::Good);
    sim.check_at_rest();
}

#[test]
fn no_more_workers_are_on_their_way_than_may_be_at_once() {
    let mut sim = Sim::new(PoolConfig { starts_at_once: 2, ..of_size(5, 5) });
    let mut alive = Vec::new();
    for id in 1..=5 {
        alive.push(sim.pool.workers.len());
        sim.fork(w(id));
    }
    assert_eq!(alive, [2, 3, 4, 5, 5]);
}

#[test]
fn so_many_starts_at_a_time_and_the_next_when_one_is_a_process() {
    let mut sim = Sim::new(of_size(100, 0));
    assert_eq!(sim.pool.workers.len(), 32);
    sim.fork(w(1));
    assert_eq!(sim.pool.workers.len(), 33);
    sim.settle(Manners::Good);
    assert_eq!(sim.count(|did| matches!(did, Did::Start(_))), 100);
}

#[test]
fn where_starts_fail_only_one_is_risked_until_a_task_is_done() {
    let mut sim = Sim::new(of_size(100, 50));
    for id in 1..=32 {
        sim.fail_start(w(id));
    }
    sim.wake_at(sim.pool.next_timer().unwrap());
    assert_eq!(sim.alive(), [w(33)]);
    sim.fail_start(w(33));
    sim.wake_at(sim.pool.next_timer().unwrap());
    assert_eq!(sim.alive(), [w(34)]);
    sim.fork(w(34));
    assert_eq!(sim.alive(), [w(34), w(35)]);
    sim.boot(w(34));
    sim.submit_plain();
    sim.finish(w(34));
    assert_eq!(sim.pool.workers.len(), 1 + 32);
    sim.settle(Manners::Good);
    assert_eq!(sim.pool.workers.len(), 50);
}

#[test]
fn workers_that_fail_together_count_once() {
    let mut sim = Sim::new(of_size(8, 8));
    let failed = sim.now();
    for id in 1..=8 {
        sim.fail_start(w(id));
    }
    assert_eq!(sim.pool.next_timer(), Some(failed + ms(10)));
}

#[test]
fn the_first_useful_work_ends_the_back_off() {
    let mut sim = Sim::new(of_size(1, 1));
    for _ in 0..6 {
        sim.fail_start(sim.newest());
        sim.pass(ms(700));
    }
    sim.boot(sim.newest());
    sim.submit_plain();
    sim.finish(sim.newest());
    sim.die(sim.newest());
    sim.reap(sim.newest());
    let now = sim.now();
    assert_eq!(sim.pool.workers.len(), 1, "an idle worker that died is replaced at once");
    sim.fail_start(sim.newest());
    assert_eq!(sim.pool.next_timer(), Some(now + ms(10)));
}

#[test]
fn tasks_that_nobody_can_run_fail_and_the_pool_recovers() {
    let mut sim = Sim::new(of_size(1, 1));
    let task = sim.submit_plain();
    let from = sim.now();
    while sim.end_of(task).is_none() {
        let id = sim.newest();
        sim.fork(id);
        sim.die(id);
        sim.reap(id);
        let at = sim.pool.next_timer().unwrap();
        sim.pass(at.since(sim.now()));
    }
    assert_eq!(sim.end_of(task), Some(End::NotStarted));
    assert!(sim.tasks[&task].ended.since(from) >= ms(1000), "not before a second of trying");
    assert!(sim.since(from) < ms(5000));
    let next = sim.submit_plain();
    sim.settle(Manners::Good);
    assert_eq!(sim.end_of(next), Some(End::Returned));
}

#[test]
fn a_task_that_no_worker_lives_to_begin_is_not_passed_on_for_ever() {
    let mut sim = Sim::new(of_size(1, 1));
    let task = sim.submit_plain();
    while sim.end_of(task).is_none() {
        sim.settle_start();
        let id = sim.newest();
        sim.die(id);
        sim.reap(id);
        assert!(sim.starts() < 20, "workers are started without end");
    }
    assert_eq!(sim.end_of(task), Some(End::NotStarted));
}

#[test]
fn a_task_that_every_worker_hangs_before_is_not_passed_on_for_ever() {
    let mut sim = Sim::new(of_size(1, 1));
    let task = sim.submit_plain();
    let from = sim.now();
    while sim.end_of(task).is_none() {
        for id in sim.alive() {
            if sim.world.processes[&id].killed {
                sim.reap(id);
            } else if !sim.world.processes[&id].ready {
                sim.boot(id);
            }
        }
        sim.pass(ms(50));
        assert!(sim.since(from) < ms(60_000) && sim.starts() < 20);
    }
    assert_eq!(sim.end_of(task), Some(End::NotStarted));
}

#[test]
fn workers_that_send_rubbish_at_once_are_not_started_without_end() {
    let mut sim = Sim::new(of_size(1, 1));
    let task = sim.submit_plain();
    while sim.end_of(task).is_none() {
        if let Some(id) = sim.alive().into_iter().find(|id| !sim.world.processes[id].forked) {
            sim.fork(id);
            sim.condemn(id);
            sim.reap(id);
        }
        sim.pass(ms(5));
        assert!(sim.starts() < 20);
    }
    assert_eq!(sim.end_of(task), Some(End::NotStarted));
}

#[test]
fn a_start_that_never_comes_is_given_up() {
    let mut sim = Sim::new(PoolConfig { start_timeout: ms(3000), ..of_size(1, 1) });
    sim.pass(ms(3000));
    assert!(sim.has_done(Did::Forget(w(1))));
    sim.pass(ms(10));
    sim.fork(w(2));
    sim.pass(ms(3000));
    assert!(sim.has_done(Did::Kill(w(2))), "it has a process, but is never ready");
}

#[test]
fn an_initializer_that_raises_fails_the_waiting_task_where_the_pool_minds() {
    let mut sim = Sim::new(PoolConfig { fail_on_initializer_error: true, ..of_size(1, 1) });
    let (first, second) = (sim.submit_plain(), sim.submit_plain());
    sim.fork(w(1));
    sim.initializer_failures += 1;
    sim.feed(Event::InitializerFailed { worker: w(1), exception: Vec::new() });
    assert_eq!(sim.end_of(first), Some(End::InitializerFailed));
    assert_eq!(sim.end_of(second), None);
    sim.reap(w(1));
    sim.settle(Manners::Good);
    assert_eq!(sim.end_of(second), Some(End::Returned));
    assert_eq!(sim.world.starts[&second][0].worker, w(2));
}

#[test]
fn an_initializer_that_always_raises_does_not_let_tasks_wait_for_ever() {
    let mut sim = Sim::new(PoolConfig { fail_on_initializer_error: true, ..of_size(1, 1) });
    let tasks: Vec<_> = (0..100).map(|_| sim.submit_plain()).collect();
    let from = sim.now();
    while tasks.iter().any(|&task| sim.end_of(task).is_none()) {
        for id in
            sim.alive().into_iter().filter(|id| !sim.world.processes[id].forked).collect::<Vec<_>>()
        {
            sim.fork(id);
            sim.initializer_failures += 1;
            sim.feed(Event::InitializerFailed { worker: id, exception: Vec::new() });
            sim.reap(id);
        }
        sim.pass(ms(5));
        assert!(sim.since(from) < ms(10_000));
    }
}

#[test]
fn clearing_replaces_idle_workers_now_and_busy_ones_after_their_task() {
    let mut sim = Sim::ready(of_size(2, 2));
    let task = sim.submit_plain();
    let busy = sim.place_of(task).unwrap();
    let idle = if busy == w(1) { w(2) } else { w(1) };
    sim.begin(busy);
    sim.feed(Event::ClearWorkers);
    assert!(sim.has_done(Did::Retire(idle)) && !sim.has_done(Did::Retire(busy)));
    assert_eq!(sim.starts(), 4);
    sim.finish(busy);
    assert!(sim.has_done(Did::Retire(busy)));
    assert_eq!(sim.end_of(task), Some(End::Returned));
    sim.settle(Manners::Good);
    assert_eq!(sim.alive(), [w(3), w(4)]);
}

#[test]
fn clearing_gives_others_what_was_sent_ahead() {
    let mut sim = quick(1);
    let (running, behind) = (sim.submit_plain(), sim.submit_plain());
    sim.begin(w(1));
    sim.feed(Event::ClearWorkers);
    assert_eq!((sim.place_of(running), sim.place_of(behind)), (Some(w(1)), None));
    sim.settle(Manners::Good);
    assert_eq!(sim.world.starts[&behind][0].worker, w(2));
}

#[test]
fn clearing_replaces_workers_that_are_only_just_starting() {
    let mut sim = Sim::new(of_size(1, 1));
    sim.feed(Event::ClearWorkers);
    sim.settle(Manners::Good);
    assert_eq!(sim.alive(), [w(2)]);
}

#[test]
fn clearing_faster_than_workers_start_starts_no_more_and_more() {
    let mut sim = Sim::new(of_size(2, 2));
    for _ in 0..50 {
        sim.feed(Event::ClearWorkers);
    }
    assert!(sim.starts() <= 4);
    sim.settle(Manners::Good);
    assert_eq!(sim.alive().len(), 2);
    assert!(sim.alive().iter().all(|&id| id > w(2)));
    sim.check_at_rest();
}

#[test]
fn clearing_before_every_start_is_over_lets_work_go_on() {
    let mut sim = Sim::new(of_size(1, 1));
    let tasks: Vec<_> = (0..5).map(|_| sim.submit_plain()).collect();
    for _ in 0..200 {
        sim.feed(Event::ClearWorkers);
        if let Some(&id) = sim.alive().iter().find(|&&id| !sim.world.processes[&id].ready) {
            if !sim.world.processes[&id].forked {
                sim.fork(id);
            }
            sim.boot(id);
        }
        for id in sim.alive() {
            if tasks.iter().any(|&task| sim.place_of(task) == Some(id)) {
                sim.begin(id);
                sim.finish(id);
            }
        }
        for id in sim.alive() {
            if sim.world.processes[&id].retiring {
                sim.reap(id);
            }
        }
    }
    assert!(tasks.iter().all(|&task| sim.end_of(task) == Some(End::Returned)));
}

#[test]
fn a_cleared_worker_runs_nothing_that_was_submitted_later() {
    let mut sim = Sim::new(of_size(1, 1));
    sim.feed(Event::ClearWorkers);
    let task = sim.submit_plain();
    sim.boot(w(1));
    assert_eq!(sim.place_of(task), None);
    assert!(sim.has_done(Did::Retire(w(1))));
    sim.settle(Manners::Good);
    assert_eq!(sim.end_of(task), Some(End::Returned));
}

#[test]
fn a_ready_worker_counts_beside_a_cleared_one_that_still_starts() {
    let mut sim = Sim::new(of_size(1, 1));
    sim.feed(Event::ClearWorkers);
    let task = sim.submit_plain();
    sim.boot(w(2));
    assert_eq!(sim.place_of(task), Some(w(2)));
}

#[test]
fn a_smaller_pool_takes_no_new_tasks_until_it_has_shrunk() {
    let mut sim = Sim::ready(of_size(4, 4));
    let tasks: Vec<_> = (0..8).map(|_| sim.submit_plain()).collect();
    for id in sim.alive() {
        sim.begin(id);
    }
    sim.feed(Event::Resize { max_workers: 2, min_workers: 1 });
    sim.finish(w(1));
    sim.finish(w(2));
    assert_eq!(sim.pool.census.busy, 2);
    assert!(sim.has_done(Did::Retire(w(1))) && sim.has_done(Did::Retire(w(2))));
    sim.finish(w(3));
    assert_eq!(sim.pool.census.busy, 2);
    sim.settle(Manners::Good);
    assert!(tasks.iter().all(|&task| sim.end_of(task) == Some(End::Returned)));
    sim.check_at_rest();
}

#[test]
fn a_larger_pool_starts_workers_at_once() {
    let mut sim = Sim::ready(of_size(1, 1));
    let tasks: Vec<_> = (0..6).map(|_| sim.submit(0, Limits::default())).collect();
    sim.feed(Event::Resize { max_workers: 4, min_workers: 2 });
    assert_eq!(sim.starts(), 4);
    sim.settle(Manners::Good);
    assert!(tasks.iter().all(|&task| sim.end_of(task) == Some(End::Returned)));
    sim.check_at_rest();
}

#[test]
fn a_million_recycled_workers_would_leave_nothing_behind() {
    let config = PoolConfig { max_tasks_per_child: Some(2), ..of_size(2, 2) };
    let mut sim = Sim::ready(config);
    for _ in 0..100 {
        sim.submit_plain();
        // The model compares the sizes of everything.
        sim.settle(Manners::Good);
    }
    sim.check_at_rest();
}
