"""How many workers there are, when they are replaced, and what is told of them."""

from __future__ import annotations

import os
import signal
import threading
from pathlib import Path

import pytest
import tasks
from control_groups import control_group
from pools import MakePool
from processes import await_death, await_pid, eventually, is_alive, run_script

import deadpool


def pids(pool: deadpool.Deadpool) -> set[int]:
    return {worker.pid for worker in pool.workers() if worker.pid is not None}


def ready(pool: deadpool.Deadpool, count: int) -> set[int]:
    """Wait until there are so many workers, all of them idle."""

    def look() -> set[int]:
        workers = pool.workers()
        fine = len(workers) == count and all(worker.state == "idle" for worker in workers)
        return {worker.pid for worker in workers} if fine else set()

    return eventually(look)


def test_full_size_at_creation(make_pool: MakePool, start_method: str) -> None:
    pool = make_pool(3, mp_context=start_method)
    assert len(ready(pool, 3)) == 3
    assert pool.get_statistics()["worker_processes_created"] == 3


def test_the_default_size_is_what_this_process_may_use() -> None:
    with deadpool.Deadpool() as pool:
        count = len(pool.workers())
        assert 1 <= count <= len(os.sched_getaffinity(0))


def test_the_default_size_respects_affinity() -> None:
    allowed = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {min(allowed)})
    try:
        with deadpool.Deadpool() as pool:
            assert len(pool.workers()) == 1
    finally:
        os.sched_setaffinity(0, allowed)


@pytest.mark.parametrize("period_us", [50_000, 100_000])
def test_the_default_size_respects_the_quota_of_a_control_group(
    tmp_path: Path, period_us: int
) -> None:
    unified = {"cpu.max": f"{period_us} {period_us}"}
    legacy = {"cpu.cfs_quota_us": period_us, "cpu.cfs_period_us": period_us}
    with control_group("cpu", unified, legacy) as group:
        out, _ = run_script(
            tmp_path,
            f"""
            with deadpool.Deadpool() as pool:
                before = len(pool.workers())
            Path({str(group)!r}, "cgroup.procs").write_text(str(os.getpid()))
            with deadpool.Deadpool() as pool:
                print(before, len(pool.workers()))
            """,
        )
    before, within = map(int, out.split())
    if before == 1:
        pytest.skip("this process has one CPU as it is")
    assert within == 1


def test_an_idle_pool_shrinks_and_grows_again(
    make_pool: MakePool, begun: Path, release: Path
) -> None:
    pool = make_pool(3, min_workers=1, worker_idle_timeout=0.05)
    eventually(lambda: len(pool.workers()) == 1)
    futures = [pool.submit(tasks.hold, begun.with_name(f"{n}"), release) for n in range(3)]
    for number in range(3):
        await_pid(begun.with_name(f"{number}"))
    release.touch()
    assert len({future.result() for future in futures}) == 3
    eventually(lambda: len(pool.workers()) == 1)


def test_scaling_to_zero(make_pool: MakePool, start_method: str) -> None:
    pool = make_pool(2, min_workers=0, worker_idle_timeout=0.02, mp_context=start_method)
    for _ in range(3):
        assert pool.submit(tasks.add, 1, 1).result() == 2
        eventually(lambda: pool.workers() == [])
    statistics = pool.get_statistics()
    assert statistics["worker_processes_still_alive"] == 0


def test_a_pool_does_not_shrink_by_default(make_pool: MakePool) -> None:
    pool = make_pool(2, worker_idle_timeout=0.01)
    before = ready(pool, 2)
    assert pool.submit(tasks.sleep, 0.1).result() == 0.1
    assert ready(pool, 2) == before


def test_who_helps_a_worker_that_is_held_up_goes_and_not_that_worker(make_pool: MakePool) -> None:
    pool = make_pool(1)
    before = pool.submit(tasks.getpid).result()
    os.kill(before, signal.SIGSTOP)
    try:
        helper = pool.submit(tasks.getpid).result()
    finally:
        os.kill(before, signal.SIGCONT)
    assert helper != before
    await_death([helper])
    assert ready(pool, 1) == {before}


def test_min_workers_above_max_workers(make_pool: MakePool) -> None:
    pool = make_pool(1, min_workers=5)
    assert pool.submit(tasks.add, 1, 1).result() == 2
    assert len(pool.workers()) == 1


def test_no_more_than_max_workers_are_busy(make_pool: MakePool) -> None:
    pool = make_pool(2, max_tasks_per_child=2)
    futures = [pool.submit(tasks.sleep, 0.005) for _ in range(40)]
    while not all(future.done() for future in futures):
        assert sum(worker.state == "busy" for worker in pool.workers()) <= 2
    assert pool.get_statistics()["max_workers_busy_concurrently"] <= 2


def test_max_tasks_per_child(make_pool: MakePool, start_method: str) -> None:
    pool = make_pool(mp_context=start_method, max_tasks_per_child=3)
    futures = [pool.submit(tasks.getpid) for _ in range(9)]
    ran_by = [future.result() for future in futures]
    assert [len(set(ran_by[start : start + 3])) for start in (0, 3, 6)] == [1, 1, 1]
    assert len(set(ran_by)) == 3
    await_death(ran_by[:6], 5)


def test_max_tasks_counts_failures(make_pool: MakePool) -> None:
    pool = make_pool(max_tasks_per_child=2)
    first = pool.submit(tasks.getpid).result()
    pool.submit(tasks.raise_, ValueError()).exception()
    assert pool.submit(tasks.getpid).result() != first


def test_max_worker_memory(make_pool: MakePool) -> None:
    pool = make_pool(max_worker_memory_bytes=150_000_000)
    first = pool.submit(tasks.getpid).result()
    assert pool.submit(tasks.getpid).result() == first
    pool.submit(tasks.allocate, 200_000_000).result()
    second = pool.submit(tasks.getpid).result()
    assert second != first
    await_death([first], 5)


def test_clearing_idle_workers(make_pool: MakePool, start_method: str) -> None:
    pool = make_pool(2, mp_context=start_method)
    before = ready(pool, 2)
    pool.clear_workers()
    assert pool.submit(tasks.getpid).result() not in before
    await_death(before, 5)
    assert not ready(pool, 2) & before


def test_clearing_lets_a_running_task_finish(
    pool: deadpool.Deadpool, begun: Path, release: Path
) -> None:
    running = pool.submit(tasks.hold, begun, release)
    waiting = pool.submit(tasks.getpid)
    pid = await_pid(begun)
    pool.clear_workers()
    release.touch()
    assert running.result() == pid
    assert waiting.result() != pid
    await_death([pid], 5)


def test_clearing_again_and_again_keeps_no_task_from_running(
    make_pool: MakePool, start_method: str
) -> None:
    pool = make_pool(2, mp_context=start_method)
    stopped = threading.Event()

    def clear() -> None:
        while not stopped.wait(0.001):
            pool.clear_workers()

    thread = threading.Thread(target=clear)
    thread.start()
    try:
        futures = [pool.submit(tasks.add, 1, number) for number in range(10)]
        assert [future.result(20) for future in futures] == list(range(1, 11))
        # What replaces them is not started faster than it can be ready.
        assert pool.get_statistics()["worker_processes_still_alive"] <= 8
    finally:
        stopped.set()
        thread.join()


def test_clearing_while_threads_submit(make_pool: MakePool) -> None:
    pool = make_pool(2)
    results: list[int] = []

    def work() -> None:
        results.extend(pool.submit(tasks.add, 1, number).result() for number in range(200))

    threads = [threading.Thread(target=work) for _ in range(2)]
    for thread in threads:
        thread.start()
    for count in range(0, 400, 40):
        eventually(lambda count=count: len(results) >= count)
        pool.clear_workers()
    for thread in threads:
        thread.join()
    assert sorted(results) == sorted([*range(1, 201), *range(1, 201)])


def test_resizing(make_pool: MakePool, begun: Path, release: Path) -> None:
    pool = make_pool(1)
    pool.resize(3)
    ready(pool, 3)
    futures = [pool.submit(tasks.hold, begun.with_name(f"{n}"), release) for n in range(3)]
    for number in range(3):
        await_pid(begun.with_name(f"{number}"))
    pool.resize(1)
    assert all(is_alive(await_pid(begun.with_name(f"{number}"))) for number in range(3))
    release.touch()
    assert len({future.result() for future in futures}) == 3
    ready(pool, 1)
    with pytest.raises(ValueError, match="max_workers"):
        pool.resize(0)
    with pytest.raises(TypeError, match="max_workers"):
        pool.resize("2")


# What is told.


def test_workers_says_what_each_does(make_pool: MakePool, begun: Path, release: Path) -> None:
    pool = make_pool(2)
    ready(pool, 2)
    pool.submit(tasks.nothing).result()
    future = pool.submit(tasks.hold, begun, release)
    pid = await_pid(begun)
    busy, idle = sorted(pool.workers(), key=lambda worker: worker.pid != pid)
    assert isinstance(busy, deadpool.WorkerInfo)
    assert (busy.state, busy.task) == ("busy", "tasks.hold")
    assert busy.running_seconds is not None
    assert 0 <= busy.running_seconds < 20
    assert (idle.state, idle.task, idle.running_seconds) == ("idle", None, None)
    assert busy.tasks_done + idle.tasks_done == 1
    assert all((worker.rss_bytes or 0) > 1_000_000 for worker in (busy, idle))
    release.touch()
    future.result()
    pool.shutdown()
    assert pool.workers() == []


KEYS = {
    "tasks_received",
    "tasks_launched",
    "tasks_failed",
    "worker_processes_created",
    "max_workers_busy_concurrently",
    "worker_processes_still_alive",
    "worker_processes_idle",
    "worker_processes_busy",
}


def test_statistics(make_pool: MakePool, begun: Path, release: Path) -> None:
    pool = make_pool(2)
    ready(pool, 2)
    assert pool.get_statistics() == dict.fromkeys(KEYS, 0) | {
        "worker_processes_created": 2,
        "worker_processes_still_alive": 2,
        "worker_processes_idle": 2,
    }
    future = pool.submit(tasks.hold, begun, release)
    await_pid(begun)
    assert pool.get_statistics() == dict.fromkeys(KEYS, 1) | {
        "tasks_failed": 0,
        "worker_processes_created": 2,
        "worker_processes_still_alive": 2,
    }
    release.touch()
    future.result()
    pool.shutdown()
    assert pool.get_statistics() == dict.fromkeys(KEYS, 0) | {
        "tasks_received": 1,
        "tasks_launched": 1,
        "worker_processes_created": 2,
        "max_workers_busy_concurrently": 1,
    }


def test_each_failed_task_counts_once(make_pool: MakePool, tmp_path: Path) -> None:
    pool = make_pool(1)
    failing = [
        pool.submit(tasks.raise_, ValueError()),
        pool.submit(tasks.exit_process, 1),
        pool.submit(tasks.spin, deadpool_timeout=0.1),
        pool.submit(tasks.nothing, deadpool_timeout=0),
        pool.submit(tasks.identity, lambda: None),
        pool.submit(tasks.lambda_result),
        pool.submit(tasks.raise_unpicklable),
        pool.submit(tasks.count_and_die, tmp_path / "log", deadpool_retries=2),
        pool.submit(tasks.allocate, 10**8, tmp_path / "b", deadpool_memory_limit_bytes=10**7),
    ]
    fine = [
        pool.submit(tasks.die_once, tmp_path / "marker", deadpool_retries=1),
        pool.submit(tasks.return_exception),
        pool.submit(tasks.add, 1, 1),
    ]
    assert all(future.exception(20) is not None for future in failing)
    assert all(future.exception(20) is None for future in fine)
    statistics = pool.get_statistics()
    assert statistics["tasks_received"] == len(failing) + len(fine)
    # Two never came to a worker.
    assert statistics["tasks_launched"] == len(failing) + len(fine) - 2
    assert statistics["tasks_failed"] == len(failing)


def test_cancelled_tasks_are_no_failures(
    pool: deadpool.Deadpool, begun: Path, release: Path
) -> None:
    running = pool.submit(tasks.hold, begun, release)
    waiting = pool.submit(tasks.nothing)
    await_pid(begun)
    waiting.cancel()
    running.cancel_and_kill_if_running()
    pool.shutdown()
    statistics = pool.get_statistics()
    assert statistics["tasks_failed"] == 0
    assert statistics["tasks_received"] == 2
    assert statistics["tasks_launched"] == 1


def test_a_worker_that_was_replaced_is_not_alive(pool: deadpool.Deadpool) -> None:
    for _ in range(3):
        pool.submit(tasks.exit_process, 1).exception()
    assert pool.submit(tasks.add, 1, 1).result() == 2
    statistics = pool.get_statistics()
    assert statistics["worker_processes_created"] >= 4
    eventually(lambda: pool.get_statistics()["worker_processes_still_alive"] == 1)


class Unreadable:
    """Can be pickled and not unpickled."""

    def __reduce__(self) -> tuple[object, ...]:
        return int, ("x",)


def test_a_result_that_cannot_be_unpickled_counts_as_a_failure(pool: deadpool.Deadpool) -> None:
    late = [pool.submit(Unreadable) for _ in range(2)]
    with pytest.raises(ValueError, match="invalid literal"):
        late[0].result()
    assert isinstance(late[1].exception(), ValueError)
    statistics = pool.get_statistics()
    assert (statistics["tasks_received"], statistics["tasks_failed"]) == (2, 2)
