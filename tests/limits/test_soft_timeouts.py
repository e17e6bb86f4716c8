"""Soft timeouts are raised inside the task, and only while it runs."""

from __future__ import annotations

import signal
import time
from pathlib import Path

import pytest
import tasks
from pools import MakePool
from processes import await_death, await_pid

import deadpool

TIMEOUT = 0.1


@pytest.mark.parametrize(
    ("function", "args"),
    [(tasks.sleep, (3600,)), (tasks.spin, ()), (tasks.read_for_ever, ()), (tasks.backtrack, ())],
    ids=["sleep", "loop", "read", "regex"],
)
def test_it_interrupts(
    make_pool: MakePool, start_method: str, function: object, args: tuple
) -> None:
    pool = make_pool(mp_context=start_method)
    begin = time.monotonic()
    future = pool.submit(function, *args, deadpool_soft_timeout=TIMEOUT)
    with pytest.raises(deadpool.SoftTimeoutError):
        future.result(20)
    assert time.monotonic() - begin < 10
    error = future.exception()
    assert not isinstance(error, deadpool.TimeoutError)
    assert function.__name__ in str(error.__cause__)


def test_the_worker_lives_on(pool: deadpool.Deadpool) -> None:
    pid = pool.submit(tasks.getpid).result()
    future = pool.submit(tasks.sleep, 3600, deadpool_soft_timeout=TIMEOUT)
    assert isinstance(future.exception(), deadpool.SoftTimeoutError)
    assert pool.submit(tasks.getpid).result() == pid


def test_a_task_may_catch_it_and_clean_up(pool: deadpool.Deadpool) -> None:
    future = pool.submit(tasks.clean_up_after, tasks.sleep, 3600, deadpool_soft_timeout=TIMEOUT)
    assert future.result().startswith("cleaned up after")


def test_it_is_not_raised_after_the_task(pool: deadpool.Deadpool) -> None:
    futures = []
    for number in range(100):
        limit = 0.001 + number * 0.00002
        futures.append(pool.submit(tasks.sleep, 0.002, deadpool_soft_timeout=limit))
        futures.append(pool.submit(tasks.sleep, 0.001))
    for limited, free in zip(futures[::2], futures[1::2], strict=True):
        error = limited.exception(20)
        assert error is None or isinstance(error, deadpool.SoftTimeoutError)
        assert free.exception(20) is None
    assert len({future.pid for future in futures} - {None}) == 1


def test_it_is_not_lost_just_before_a_system_call(pool_of_two: deadpool.Deadpool) -> None:
    # The signal may come when Python has looked for signals and the call has not begun.
    limits = {"deadpool_soft_timeout": 0.001, "deadpool_timeout": 10}
    futures = [
        pool_of_two.submit(tasks.spin_and_read, 0.001 + number % 50 * 0.000002, **limits)
        for number in range(1500)
    ]
    errors = [future.exception(50) for future in futures]
    assert {type(error) for error in errors} == {deadpool.SoftTimeoutError}


def test_it_is_raised_once(pool: deadpool.Deadpool, begun: Path) -> None:
    future = pool.submit(tasks.count_soft_timeouts, deadpool_soft_timeout=0.01)
    assert future.result(20) == 1


def test_it_counts_for_each_task_by_itself(pool: deadpool.Deadpool) -> None:
    futures = [pool.submit(tasks.sleep, 0.03, deadpool_soft_timeout=3) for _ in range(5)]
    assert all(future.result() for future in futures)


def test_a_hard_timeout_follows(pool: deadpool.Deadpool, begun: Path) -> None:
    future = pool.submit(
        tasks.ignore_soft_timeout, begun, deadpool_soft_timeout=TIMEOUT, deadpool_timeout=0.6
    )
    assert isinstance(future.exception(20), deadpool.TimeoutError)
    await_death([await_pid(begun)])


def test_it_does_not_help_where_c_code_holds_the_gil(pool: deadpool.Deadpool) -> None:
    future = pool.submit(tasks.count_in_c, deadpool_soft_timeout=0.05, deadpool_timeout=0.4)
    assert isinstance(future.exception(20), deadpool.TimeoutError)


def test_infinite_and_none(pool: deadpool.Deadpool) -> None:
    for limit in (None, float("inf"), 1e300):
        assert pool.submit(tasks.sleep, 0, deadpool_soft_timeout=limit).result() == 0


def test_zero_means_at_once(pool: deadpool.Deadpool) -> None:
    future = pool.submit(tasks.spin, deadpool_soft_timeout=0)
    assert isinstance(future.exception(20), deadpool.SoftTimeoutError)


def test_in_a_map_it_is_the_chunks(pool: deadpool.Deadpool) -> None:
    results = pool.map(tasks.sleep, [0, 3600], deadpool_soft_timeout=TIMEOUT)
    assert next(results) == 0
    with pytest.raises(deadpool.SoftTimeoutError):
        next(results)


def test_a_parent_that_blocks_all_signals_has_soft_timeouts_and_stacks(
    make_pool: MakePool, start_method: str
) -> None:
    before = signal.pthread_sigmask(signal.SIG_BLOCK, signal.valid_signals())
    try:
        pool = make_pool(mp_context=start_method)
        soft = pool.submit(time.sleep, 100, deadpool_soft_timeout=0.1).exception()
        assert isinstance(soft, deadpool.SoftTimeoutError)
        hard = pool.submit(tasks.sleep, 100, deadpool_timeout=0.1).exception()
        assert isinstance(hard, deadpool.TimeoutError)
        assert "sleep" in str(hard.stack)
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def block_all_signals() -> None:
    signal.pthread_sigmask(signal.SIG_BLOCK, signal.valid_signals())


def test_a_task_that_blocked_all_signals_does_not_take_them_from_the_next(
    pool: deadpool.Deadpool,
) -> None:
    pool.submit(block_all_signals).result()
    soft = pool.submit(time.sleep, 100, deadpool_soft_timeout=0.1).exception()
    assert isinstance(soft, deadpool.SoftTimeoutError)
