"""Changing the size of a running pool, ``Deadpool.resize``."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import tasks
from processes import LONG_SECONDS, eventually

import deadpool

MakePool = Callable[..., deadpool.Deadpool]


def alive(pool: deadpool.Deadpool) -> int:
    return pool.get_statistics()["worker_processes_still_alive"]


def hold(pool: deadpool.Deadpool, directory: Path, count: int) -> list[deadpool.Future]:
    futures = [
        pool.submit(tasks.hold, directory / f"begun{n}", directory / f"release{n}")
        for n in range(count)
    ]
    for n in range(count):
        tasks.await_file(directory / f"begun{n}")
    return futures


def test_growing_starts_workers_at_once(make_pool: MakePool, start_method: str) -> None:
    pool = make_pool(1, mp_context=start_method)
    pool.submit(tasks.nothing).result()
    pool.resize(3)
    eventually(lambda: alive(pool) == 3)


def test_a_smaller_pool_retires_idle_workers_only(make_pool: MakePool, tmp_path: Path) -> None:
    pool = make_pool(4)
    futures = hold(pool, tmp_path, 2)
    eventually(lambda: alive(pool) == 4)
    busy = {future.pid for future in futures}
    pool.resize(1)
    eventually(lambda: alive(pool) == 2)
    assert {worker.pid for worker in pool.workers()} >= busy
    tasks.touch(tmp_path / "release0")
    futures[0].result(LONG_SECONDS)
    eventually(lambda: alive(pool) == 1)
    tasks.touch(tmp_path / "release1")
    futures[1].result(LONG_SECONDS)
    assert pool.submit(abs, -1).result() == 1
    assert alive(pool) == 1


def test_no_more_tasks_run_than_the_new_size_allows(make_pool: MakePool, tmp_path: Path) -> None:
    pool = make_pool(1)
    futures = [
        pool.submit(tasks.hold, tmp_path / f"begun{n}", tmp_path / "release") for n in range(6)
    ]
    tasks.await_file(tmp_path / "begun0")
    for size in (2, 4):
        pool.resize(size)
        eventually(lambda size=size: len(list(tmp_path.glob("begun*"))) == size)
    tasks.touch(tmp_path / "release")
    for future in futures:
        future.result(LONG_SECONDS)


def test_resizing_under_load_loses_nothing(make_pool: MakePool) -> None:
    pool = make_pool(2)
    futures = []
    for size in [1, 4, 2, 3, 1, 4, 1, 2] * 3:
        futures += [pool.submit(abs, -n) for n in range(20)]
        pool.resize(size)
    assert [future.result(LONG_SECONDS) for future in futures] == list(range(20)) * 24
    eventually(lambda: alive(pool) == 2)
    assert pool.get_statistics()["tasks_failed"] == 0


@pytest.mark.parametrize("size", [0, -1])
def test_bad_sizes(make_pool: MakePool, size: int) -> None:
    pool = make_pool(1)
    with pytest.raises(ValueError, match="max_workers must be greater than 0"):
        pool.resize(size)
    with pytest.raises(TypeError):
        pool.resize("2")  # type: ignore[arg-type]


def test_workers_are_told_of(make_pool: MakePool) -> None:
    up: list[int] = []
    down: list[tuple[int, int | None]] = []
    pool = make_pool(
        2, on_worker_up=up.append, on_worker_down=lambda pid, code: down.append((pid, code))
    )
    eventually(lambda: len(up) == 2)
    with pytest.raises(deadpool.ProcessError) as caught:
        pool.submit(tasks.exit_process, 7).result()
    eventually(lambda: down)
    assert down == [(caught.value.pid, 7)]
    eventually(lambda: len(up) == 3)
    pool.shutdown()
    assert sorted(pid for pid, _ in down) == sorted(up)
    with pytest.raises(TypeError):
        make_pool(1, on_worker_up=7)


def test_a_failing_callback_about_workers_is_logged(
    make_pool: MakePool, caplog: pytest.LogCaptureFixture
) -> None:
    def fail(_pid: int) -> None:
        raise OSError("in the callback")

    pool = make_pool(1, on_worker_up=fail)
    assert pool.submit(abs, -1).result() == 1
    eventually(lambda: caplog.records)
    assert "in the callback" in caplog.text
    caplog.clear()


def test_soft_timeout_callbacks(make_pool: MakePool) -> None:
    pool = make_pool(1)
    seen: list[object] = []
    future = pool.submit(tasks.sleep, 60, deadpool_soft_timeout=0.1)
    future.add_soft_timeout_callback(seen.append)
    with pytest.raises(deadpool.SoftTimeoutError):
        future.result(LONG_SECONDS)
    eventually(lambda: seen)
    future.add_soft_timeout_callback(seen.append)
    assert seen == [future, future]
    other = pool.submit(abs, -1)
    other.add_soft_timeout_callback(seen.append)
    other.result()
    assert len(seen) == 2
