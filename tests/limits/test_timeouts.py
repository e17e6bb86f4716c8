"""Deadlines hold whatever the task does, and nothing of it runs afterwards."""

from __future__ import annotations

import ctypes
import time
from pathlib import Path

import pytest
import tasks
from pools import MakePool
from processes import await_death, await_path, await_pid, await_pids, eventually

import deadpool

pytestmark = pytest.mark.every_python

# A deadline may be missed by as much on a machine that is busy with other things.
LATE_SECONDS = 2.0

TIMEOUT = 0.3


def timeout_of(future: deadpool.Future, timeout: float = TIMEOUT) -> deadpool.TimeoutError:
    """Wait for the future, which must time out and do so on time."""
    begin = time.monotonic()
    error = future.exception(20)
    assert time.monotonic() - begin < timeout + LATE_SECONDS
    assert isinstance(error, deadpool.TimeoutError), error
    assert "timed out" in str(error)
    return error


HANGS = [
    (tasks.spin, ()),
    (tasks.sleep, (3600,)),
    (tasks.backtrack, ()),
    (tasks.stop_itself, ()),
    (tasks.spin_with_signals_blocked, ()),
    (tasks.sleep_without_gil, ()),
    (tasks.sleep_with_gil, ()),
    (tasks.read_for_ever, ()),
]


@pytest.mark.parametrize(("function", "args"), HANGS, ids=[f.__name__ for f, _ in HANGS])
def test_whatever_the_task_does(
    pool: deadpool.Deadpool, begun: Path, function: object, args: tuple
) -> None:
    future = pool.submit(tasks.begin_and, begun, function, *args, deadpool_timeout=TIMEOUT)
    error = timeout_of(future)
    pid = await_pid(begun)
    await_death([pid])
    assert error.pid == pid
    assert error.task == "tasks.begin_and"
    assert pool.submit(tasks.add, 1, 1).result() == 2


@pytest.mark.parametrize("function", [tasks.spin, tasks.backtrack, tasks.sleep_with_gil])
def test_the_stack_says_where_it_was(warm_pool: deadpool.Deadpool, function: object) -> None:
    error = timeout_of(warm_pool.submit(function, deadpool_timeout=TIMEOUT))
    assert error.stack is not None
    assert f"in {function.__name__}" in error.stack
    assert str(error).endswith(error.stack)
    assert error.rss_bytes is not None
    assert error.rss_bytes > 1_000_000
    assert error.oom_killed is False


def test_while_arguments_are_unpickled(pool: deadpool.Deadpool) -> None:
    timeout_of(pool.submit(tasks.identity, tasks.HangsUnpickling(), deadpool_timeout=TIMEOUT))
    assert pool.submit(tasks.add, 1, 1).result() == 2


def test_while_the_result_is_pickled(pool: deadpool.Deadpool) -> None:
    timeout_of(pool.submit(tasks.return_, tasks.HangsPickling, deadpool_timeout=TIMEOUT))


def test_while_c_code_holds_the_gil_of_the_parent(pool: deadpool.Deadpool, begun: Path) -> None:
    future = pool.submit(tasks.beat, begun, deadpool_timeout=TIMEOUT)
    await_path(begun)
    # Nothing of Python runs in this process meanwhile.
    ctypes.PyDLL(None).sleep(2)
    last_beat = float(begun.read_text())
    assert time.monotonic() - last_beat > 1
    assert isinstance(future.exception(), deadpool.TimeoutError)


def test_while_a_callback_blocks(pool_of_two: deadpool.Deadpool, begun: Path) -> None:
    blocking = pool_of_two.submit(tasks.nothing)
    blocking.add_done_callback(lambda _: time.sleep(2))
    future = pool_of_two.submit(tasks.beat, begun, deadpool_timeout=TIMEOUT)
    pid = int(eventually(lambda: future.pid))
    await_death([pid], 1.5)
    assert isinstance(future.exception(), deadpool.TimeoutError)


def test_zero_means_at_once(pool: deadpool.Deadpool, begun: Path) -> None:
    future = pool.submit(tasks.touch, begun, deadpool_timeout=0)
    timeout_of(future, 0)
    assert isinstance(
        pool.submit(tasks.touch, begun, deadpool_timeout=0.0).exception(), deadpool.TimeoutError
    )
    pool.submit(tasks.nothing).result()
    assert not begun.exists()


@pytest.mark.parametrize("timeout", [None, float("inf"), 1e300, 10**400, 3600, 60.5])
def test_long_timeouts(pool: deadpool.Deadpool, timeout: float | None) -> None:
    assert pool.submit(tasks.sleep, 0.01, deadpool_timeout=timeout).result() == 0.01


def test_it_counts_from_the_start_and_not_from_the_submission(
    pool: deadpool.Deadpool, begun: Path, release: Path
) -> None:
    pool.submit(tasks.hold, begun, release)
    future = pool.submit(tasks.sleep, 0.01, deadpool_timeout=0.5)
    await_pid(begun)
    time.sleep(0.7)
    release.touch()
    assert future.result() == 0.01


def test_short_tasks_sent_ahead_are_not_hit(pool: deadpool.Deadpool) -> None:
    futures = [pool.submit(tasks.add, number, 0) for number in range(100)]
    slow = pool.submit(tasks.spin, deadpool_timeout=TIMEOUT)
    futures += [pool.submit(tasks.add, number, 0) for number in range(100, 200)]
    timeout_of(slow)
    assert [future.result() for future in futures] == list(range(200))


def test_many_at_the_same_time(make_pool: MakePool) -> None:
    pool = make_pool(4)
    futures = [pool.submit(tasks.spin, deadpool_timeout=0.1) for _ in range(12)]
    for future in futures:
        timeout_of(future, 3)


def test_tasks_that_end_in_time_are_not_hit(pool_of_two: deadpool.Deadpool) -> None:
    futures = [
        pool_of_two.submit(tasks.sleep, 0.001 * (number % 10), deadpool_timeout=5)
        for number in range(200)
    ]
    assert all(future.result() is not None for future in futures)


def test_tasks_that_end_at_about_their_deadline_end_once(pool_of_two: deadpool.Deadpool) -> None:
    futures = [
        pool_of_two.submit(tasks.sleep, 0.005 + number * 0.0005, deadpool_timeout=0.01)
        for number in range(30)
    ]
    for future in futures:
        error = future.exception(20)
        assert error is None or isinstance(error, deadpool.TimeoutError)


@pytest.mark.parametrize(
    "function",
    [tasks.start_child, tasks.start_session, tasks.start_daemon, tasks.start_stopped_child],
)
def test_the_whole_tree_is_killed(
    warm_pool: deadpool.Deadpool, begun: Path, function: object
) -> None:
    timeout_of(warm_pool.submit(function, begun, deadpool_timeout=1))
    pids = await_pids(begun)
    assert len(pids) == 2
    await_death(pids)


def test_exit_handlers_run_first(pool: deadpool.Deadpool, begun: Path, tmp_path: Path) -> None:
    marker = tmp_path / "marker"
    future = pool.submit(tasks.handle_exit_and_hang, marker, begun, deadpool_timeout=TIMEOUT)
    timeout_of(future)
    assert marker.exists()
    assert await_pid(marker) == await_pid(begun)


def test_exit_handlers_have_so_long(make_pool: MakePool, begun: Path) -> None:
    pool = make_pool(kill_grace_period=0.3)
    begin = time.monotonic()
    timeout_of(pool.submit(tasks.hang_at_exit, begun, deadpool_timeout=TIMEOUT))
    assert time.monotonic() - begin >= TIMEOUT + 0.3
    await_death([await_pid(begun)])


def test_exit_handlers_of_a_worker_that_holds_the_gil(make_pool: MakePool, tmp_path: Path) -> None:
    pool = make_pool(kill_grace_period=0.2)
    marker = tmp_path / "marker"
    timeout_of(pool.submit(tasks.handle_exit_holding_gil, marker, deadpool_timeout=TIMEOUT))
    assert not marker.exists()


def test_exit_handlers_run_when_a_worker_goes_in_peace(make_pool: MakePool, tmp_path: Path) -> None:
    pool = make_pool()
    marker = tmp_path / "marker"
    pool.submit(tasks.register_exit_handler, tasks.touch, marker).result()
    pool.shutdown()
    assert marker.exists()


def test_the_finalizer_does_not_run(make_pool: MakePool, tmp_path: Path) -> None:
    marker = tmp_path / "marker"
    pool = make_pool(finalizer=tasks.touch, finalargs=(marker,))
    timeout_of(pool.submit(tasks.spin, deadpool_timeout=TIMEOUT))
    assert not marker.exists()


def test_it_is_told_from_a_timeout_of_the_tasks_own(pool: deadpool.Deadpool) -> None:
    own = pool.submit(tasks.raise_, TimeoutError("own")).exception()
    assert not isinstance(own, deadpool.TimeoutError)


def test_a_cancelled_task_still_meets_its_deadline(pool: deadpool.Deadpool, begun: Path) -> None:
    future = pool.submit(tasks.begin_and, begun, tasks.spin, deadpool_timeout=TIMEOUT)
    pid = await_pid(begun)
    assert future.cancel()
    await_death([pid], 5)


@pytest.mark.parametrize("how", ["partial", "of the standard library", "finalizer"])
def test_exit_handlers_of_any_kind_get_their_grace(
    make_pool: MakePool, how: str, tmp_path: Path
) -> None:
    pool = make_pool(kill_grace_period=5.0)
    future = pool.submit(tasks.register_and_spin, how, tmp_path / "left", deadpool_timeout=0.3)
    assert isinstance(future.exception(), deadpool.TimeoutError)
    assert (tmp_path / "left").exists()
