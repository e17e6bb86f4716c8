"""Result objects and callbacks of ``deadpool.pool.Pool``."""

from __future__ import annotations

import multiprocessing
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pool_tasks
import pytest
import tasks
from processes import LONG_SECONDS, eventually

from deadpool.pool import Pool


@pytest.fixture
def pool(_nothing_left: None) -> Iterator[Pool]:
    with Pool(1) as pool:
        yield pool


def test_a_callback_that_exits_stops_no_other_one() -> None:
    def leave(_result: object) -> None:
        raise SystemExit

    with Pool(1) as pool:
        assert pool.apply_async(abs, (-1,), {}, leave).get(20) == 1
        seen: list[int] = []
        assert pool.apply_async(abs, (-2,), {}, seen.append).get(20) == 2
        assert seen == [2]


@pytest.mark.parametrize("kwds", [[("x", 1)], {1: 1}])
def test_keywords_that_are_none(kwds: Any) -> None:
    with Pool(1) as pool, pytest.raises(TypeError, match=r"mapping|keywords must be strings"):
        pool.apply_async(abs, (-1,), kwds).get(20)


def test_waiting_with_a_timeout(pool: Pool, tmp_path: Path) -> None:
    result = pool.apply_async(pool_tasks.hold_begun, (tmp_path, 7))
    begun = time.monotonic()
    with pytest.raises(multiprocessing.TimeoutError):
        result.get(0.05)
    with pytest.raises(multiprocessing.TimeoutError):
        result.get(timeout=0)
    result.wait(0.05)
    assert 0.1 <= time.monotonic() - begun < 5
    assert not result.ready()
    with pytest.raises(ValueError, match="not ready"):
        result.successful()
    tasks.touch(tmp_path / "release")
    assert result.get(LONG_SECONDS) == 7
    assert result.ready()
    assert result.successful()
    assert result.get(0) == 7


def test_a_failure_is_raised_each_time(pool: Pool) -> None:
    result = pool.apply_async(pool_tasks.square_or_raise, (3,))
    for _ in range(2):
        with pytest.raises(KeyError):
            result.get()
    assert not result.successful()


def test_a_tasks_own_timeout_error_is_no_timeout_of_the_wait(pool: Pool) -> None:
    result = pool.apply_async(tasks.raise_, (TimeoutError("mine"),))
    with pytest.raises(TimeoutError, match="mine"):
        result.get(LONG_SECONDS)


def test_map_results_wait_for_all_chunks(pool: Pool, tmp_path: Path) -> None:
    calls = [(tmp_path, 1), (tmp_path, 2)]
    result = pool.starmap_async(pool_tasks.hold_begun, calls, 1)
    with pytest.raises(multiprocessing.TimeoutError):
        result.get(0.05)
    assert not result.ready()
    tasks.touch(tmp_path / "release")
    assert result.get(LONG_SECONDS) == [1, 2]
    assert result.successful()


def test_callbacks_have_returned_when_the_result_is_ready(pool: Pool) -> None:
    seen: list[Any] = []

    def slow(value: Any) -> None:
        time.sleep(0.1)
        seen.append(value)

    pool.apply_async(abs, (-1,), callback=slow).wait()
    assert seen == [1]
    pool.map_async(abs, [-1, -2], 1, callback=slow).wait()
    assert seen == [1, [1, 2]]
    result = pool.apply_async(pool_tasks.square_or_raise, (3,), {}, slow, slow)
    with pytest.raises(KeyError):
        result.get()
    assert isinstance(seen[2], KeyError)
    pool.map_async(abs, [], callback=slow).wait()
    assert seen[3] == []


def test_a_callback_that_raises_is_logged_and_hangs_nothing(
    pool: Pool, caplog: pytest.LogCaptureFixture
) -> None:
    def fail(_value: Any) -> None:
        raise OSError("in the callback")

    assert pool.apply_async(abs, (-1,), callback=fail).get(LONG_SECONDS) == 1
    with pytest.raises(KeyError):
        pool.apply_async(pool_tasks.square_or_raise, (3,), error_callback=fail).get(LONG_SECONDS)
    assert [record.name for record in caplog.records] == ["deadpool.pool"] * 2
    assert pool.apply_async(abs, (-2,), callback=lambda _: None).get(LONG_SECONDS) == 2
    caplog.clear()


def test_a_callback_may_use_the_pool_and_its_own_result(pool: Pool) -> None:
    seen: list[Any] = []
    ready = threading.Event()

    def use(value: int) -> None:
        ready.wait()
        seen.extend([value, result.get(), pool.apply(abs, (-2,)), pool.map(abs, [-3])])
        seen.extend(pool.imap(abs, [-5, -6]))
        with pytest.raises(RuntimeError, match="can't wait"):
            pool.apply_async(abs, (-4,), callback=seen.append).get()
        seen.append("end")

    result = pool.apply_async(abs, (-1,), callback=use)
    ready.set()
    assert result.get(LONG_SECONDS) == 1
    eventually(lambda: 4 in seen)
    assert seen == [1, 1, 2, [3], 5, 6, "end", 4]


def test_discarded_results_call_nobody(pool: Pool, tmp_path: Path) -> None:
    seen: list[Any] = []
    result = pool.apply_async(pool_tasks.hold_begun, (tmp_path, 1), callback=seen.append)
    result.discard()
    tasks.touch(tmp_path / "release")
    result.wait(LONG_SECONDS)
    assert seen == []


def test_accepted_results_know_their_process(pool: Pool, tmp_path: Path) -> None:
    seen: list[tuple[int, float]] = []
    done: list[int] = []
    first = pool.apply_async(
        pool_tasks.hold_begun,
        (tmp_path, 1),
        callback=lambda _: done.append(len(seen)),
        accept_callback=lambda *args: seen.append(args),
        correlation_id="mine",
    )
    second = pool.apply_async(abs, (-1,))
    eventually(first.accepted)
    eventually(lambda: seen)
    ((pid, at),) = seen
    assert pid == pool._pool[0].pid
    assert first.worker_pids() == [pid]
    assert 0 <= time.monotonic() - at < LONG_SECONDS
    assert not second.accepted()
    assert second.worker_pids() == []
    tasks.touch(tmp_path / "release")
    assert first.get(LONG_SECONDS) == 1
    # Accepted before it was done, and once.
    assert done == [1]
    assert len(seen) == 1
    assert first.correlation_id == "mine"
    assert second.get(LONG_SECONDS) == 1
    assert second.accepted()


def test_accept_callbacks_of_short_tasks_come_before_the_result(pool: Pool) -> None:
    for number in range(200):
        seen: list[Any] = []
        pool.apply_async(
            abs,
            (number,),
            callback=seen.append,
            accept_callback=lambda pid, _at, seen=seen: seen.append(("pid", pid)),
        ).get(LONG_SECONDS)
        assert seen == [("pid", pool._pool[0].pid), number]


def test_map_results_know_their_processes(pool: Pool) -> None:
    result = pool.map_async(tasks.getpid, range(4), 2)
    pids = result.get()
    assert result.accepted()
    assert set(result.worker_pids()) == set(pids)


def test_many_threads_wait_for_one_result(pool: Pool, tmp_path: Path) -> None:
    results = [
        pool.starmap_async(pool_tasks.hold_begun, [(tmp_path, n) for n in range(8)], 1),
        pool.apply_async(abs, (-1,)),
        pool.apply_async(abs, (-1,), callback=lambda _: None),
    ]
    got: list[Any] = []
    threads = [
        threading.Thread(target=lambda r=result: got.append(r.get(LONG_SECONDS)))
        for result in results
        for _ in range(5)
    ]
    for thread in threads:
        thread.start()
    tasks.touch(tmp_path / "release")
    for thread in threads:
        thread.join()
    assert got.count(1) == 10
    assert got.count(list(range(8))) == 5
