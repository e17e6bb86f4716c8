"""Limits on memory, and giving it back."""

from __future__ import annotations

import resource
from pathlib import Path

import pytest
import tasks
from pools import MakePool
from processes import await_death

import deadpool
from deadpool import _core

MIB = 2**20


def test_over_its_limit_a_task_is_killed(
    make_pool: MakePool, start_method: str, begun: Path
) -> None:
    pool = make_pool(mp_context=start_method)
    limit = 150 * MIB
    future = pool.submit(tasks.allocate, 300 * MIB, begun, deadpool_memory_limit_bytes=limit)
    error = future.exception(20)
    assert isinstance(error, deadpool.MemoryLimitError)
    assert isinstance(error, deadpool.ProcessError)
    assert "150.0 MiB" in str(error)
    assert error.task == "tasks.allocate"
    await_death([error.pid])
    assert pool.submit(tasks.add, 1, 1).result() == 2


def test_the_limit_is_for_the_whole_tree(pool: deadpool.Deadpool) -> None:
    future = pool.submit(tasks.allocate_in_child, 300 * MIB, deadpool_memory_limit_bytes=150 * MIB)
    assert isinstance(future.exception(20), deadpool.MemoryLimitError)


def test_below_its_limit_a_task_is_left_alone(pool: deadpool.Deadpool) -> None:
    limit = 1000 * MIB
    futures = [
        pool.submit(tasks.sleep, 0.05, deadpool_memory_limit_bytes=limit),
        pool.submit(tasks.allocate, 50 * MIB, deadpool_memory_limit_bytes=limit),
    ]
    assert [future.result(20) for future in futures] == [0.05, None]


def test_the_limit_is_that_of_one_task(pool: deadpool.Deadpool) -> None:
    assert pool.submit(tasks.sleep, 0.01, deadpool_memory_limit_bytes=1000 * MIB).result() == 0.01
    free = pool.submit(tasks.allocate, 300 * MIB)
    assert free.result() is None


def test_it_counts_once_among_many(make_pool: MakePool, begun: Path) -> None:
    pool = make_pool(2)
    over = pool.submit(tasks.allocate, 300 * MIB, begun, deadpool_memory_limit_bytes=150 * MIB)
    others = [pool.submit(tasks.sleep, 0.001) for _ in range(100)]
    assert isinstance(over.exception(20), deadpool.MemoryLimitError)
    assert all(future.exception(20) is None for future in others)


def test_it_holds_where_the_gil_is_held(pool: deadpool.Deadpool) -> None:
    limit = 150 * MIB
    future = pool.submit(
        tasks.allocate_and, 300 * MIB, tasks.count_in_c, deadpool_memory_limit_bytes=limit
    )
    error = future.exception(20)
    assert isinstance(error, deadpool.MemoryLimitError)
    await_death([error.pid])


def resident_bytes_after_fragmenting(pool: deadpool.Deadpool) -> int:
    worker = pool.submit(tasks.getpid).result()
    pool.submit(tasks.fragment, 100_000).result()
    # What comes after a task has come when the next one runs.
    assert pool.submit(tasks.getpid).result() == worker
    statm = Path(f"/proc/{worker}/statm").read_text().split()
    return int(statm[1]) * resource.getpagesize()


def test_memory_is_given_back_above_the_threshold(make_pool: MakePool) -> None:
    kept = resident_bytes_after_fragmenting(make_pool())
    trimmed = resident_bytes_after_fragmenting(make_pool(malloc_trim_rss_memory_threshold_bytes=1))
    below = make_pool(malloc_trim_rss_memory_threshold_bytes=1 << 40)
    assert trimmed < kept - 20 * MIB
    assert resident_bytes_after_fragmenting(below) > trimmed + 20 * MIB


def test_trim_memory() -> None:
    assert deadpool.trim_memory() is None


def test_where_memory_cannot_be_trimmed_the_log_says_so(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(_core, "malloc_trim", lambda: False)
    with caplog.at_level("INFO", "deadpool.worker"):
        deadpool.trim_memory()
    assert "has no malloc_trim" in caplog.text


@pytest.mark.parametrize("limit", [1, 1000])
def test_a_tiny_limit_kills_what_runs_long_enough(pool: deadpool.Deadpool, limit: int) -> None:
    error = pool.submit(tasks.sleep, 3600, deadpool_memory_limit_bytes=limit).exception(20)
    assert isinstance(error, deadpool.MemoryLimitError)
