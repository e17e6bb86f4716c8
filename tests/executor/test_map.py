"""``map``: many calls of one function, with the results in the order of the arguments."""

from __future__ import annotations

import concurrent.futures
import functools
import itertools
import weakref
from collections.abc import Iterator
from pathlib import Path

import pytest
import tasks
from pools import MakePool
from processes import await_pid, eventually

import deadpool

pytestmark = pytest.mark.every_python


@pytest.mark.parametrize("chunksize", [1, 2, 3, 7, 100])
def test_results_are_in_order(pool_of_two: deadpool.Deadpool, chunksize: int) -> None:
    results = pool_of_two.map(tasks.add, range(10), range(100, 110), chunksize=chunksize)
    assert list(results) == [number + 100 + number for number in range(10)]


def test_the_shortest_iterable_decides(pool: deadpool.Deadpool) -> None:
    assert list(pool.map(tasks.add, range(3), itertools.count())) == [0, 2, 4]
    assert list(pool.map(tasks.identity, [])) == []
    assert list(pool.map(tasks.identity)) == []


def test_everything_is_submitted_at_once(
    pool: deadpool.Deadpool, begun: Path, release: Path
) -> None:
    taken: list[int] = []

    def numbers() -> Iterator[Path]:
        for number in range(5):
            taken.append(number)
            yield begun.with_name(f"begun{number}")

    results = pool.map(tasks.hold, numbers(), itertools.repeat(release))
    assert taken == list(range(5))
    release.touch()
    assert len(set(results)) == 1


@pytest.mark.parametrize("chunksize", [1, 2])
def test_a_buffer_bounds_what_is_submitted(pool: deadpool.Deadpool, chunksize: int) -> None:
    taken: list[int] = []

    def numbers() -> Iterator[int]:
        for number in range(20):
            taken.append(number)
            yield number

    results = pool.map(tasks.identity, numbers(), buffersize=3, chunksize=chunksize)
    assert len(taken) == 3 * chunksize
    assert next(results) == 0
    assert len(taken) == 4 * chunksize
    assert list(results) == list(range(1, 20))


def test_an_endless_iterable_with_a_buffer(pool: deadpool.Deadpool) -> None:
    results = pool.map(tasks.identity, itertools.count(), buffersize=4)
    assert list(itertools.islice(results, 50)) == list(range(50))
    results.close()


def test_an_exception_is_raised_at_its_place(pool: deadpool.Deadpool) -> None:
    results = pool.map(divmod, [4, 5, 6], [2, 0, 2])
    assert next(results) == (2, 0)
    with pytest.raises(ZeroDivisionError):
        next(results)
    with pytest.raises(StopIteration):
        next(results)


def test_what_was_not_wanted_is_cancelled(
    pool: deadpool.Deadpool, begun: Path, release: Path, tmp_path: Path
) -> None:
    log = tmp_path / "log"
    holding = pool.submit(tasks.hold, begun, release)
    with pytest.raises(concurrent.futures.TimeoutError):
        next(pool.map(tasks.append, itertools.repeat(log), range(5), timeout=0.01))
    release.touch()
    holding.result()
    pool.submit(tasks.nothing).result()
    assert not log.exists()


def test_a_timeout_counts_from_the_call(
    pool: deadpool.Deadpool, begun: Path, release: Path
) -> None:
    results = pool.map(tasks.hold, [begun], [release], timeout=0.05)
    with pytest.raises(concurrent.futures.TimeoutError) as caught:
        next(results)
    assert not isinstance(caught.value, deadpool.TimeoutError)
    release.touch()


def test_limits_are_those_of_each_chunk(pool: deadpool.Deadpool) -> None:
    slow = pool.map(tasks.sleep, [0, 0, 3600], chunksize=3, deadpool_timeout=0.1)
    with pytest.raises(deadpool.TimeoutError, match="timed out"):
        next(slow)
    single = pool.map(tasks.sleep, [0, 3600], deadpool_timeout=0.1)
    assert next(single) == 0
    with pytest.raises(deadpool.TimeoutError):
        next(single)


def test_priority_and_retries_are_passed_on(
    pool: deadpool.Deadpool, begun: Path, release: Path, tmp_path: Path
) -> None:
    log = tmp_path / "log"
    pool.submit(tasks.hold, begun, release)
    await_pid(begun)
    low = pool.map(tasks.append, [log], ["low"], deadpool_priority=1)
    high = pool.map(tasks.append, [log], ["high"], deadpool_priority=0)
    release.touch()
    list(low), list(high)
    assert log.read_text().split() == ["high", "low"]
    marker = tmp_path / "marker"
    assert list(pool.map(tasks.die_once, [marker], deadpool_retries=1)) == ["lived"]


def test_results_are_let_go_as_they_are_taken(pool: deadpool.Deadpool) -> None:
    results = pool.map(tasks.return_, [tasks.UnpicklableError.__mro__[1], set, set])
    next(results)
    value = next(results)
    assert value == set()
    gone = weakref.ref(value)
    del value
    eventually(lambda: gone() is None, 2)
    list(results)


@pytest.mark.parametrize("chunksize", [0, -1, 1.5, "2", None])
def test_a_bad_chunksize_is_refused(pool: deadpool.Deadpool, chunksize: object) -> None:
    with pytest.raises((ValueError, TypeError), match="chunksize"):
        pool.map(tasks.identity, [1], chunksize=chunksize)


@pytest.mark.parametrize(
    ("buffersize", "error"), [(0, ValueError), (-1, ValueError), (1.5, TypeError), ("2", TypeError)]
)
def test_a_bad_buffersize_is_refused(
    pool: deadpool.Deadpool, buffersize: object, error: type[Exception]
) -> None:
    with pytest.raises(error, match="buffersize"):
        pool.map(tasks.identity, [1], buffersize=buffersize)


def test_a_bad_function_or_iterable_is_refused(pool: deadpool.Deadpool) -> None:
    with pytest.raises(TypeError, match="callable"):
        pool.map(None, [1])
    with pytest.raises(TypeError):
        pool.map(tasks.identity, 1)


def test_a_closed_pool_maps_nothing(make_pool: MakePool) -> None:
    pool = make_pool()
    pool.shutdown()
    with pytest.raises(deadpool.PoolClosed):
        pool.map(tasks.identity, [1])


def test_the_first_result_does_not_wait_for_all_tasks(make_pool: MakePool, tmp_path: Path) -> None:
    pool = make_pool(max_backlog=10)
    log = tmp_path / "log"
    log.touch()
    results = pool.map(functools.partial(tasks.append, log), range(300))
    next(results)
    # What the backlog holds, what is with the worker, and the one that was taken.
    assert len(log.read_text().splitlines()) < 100
    assert len(list(results)) == 299
    assert len(log.read_text().splitlines()) == 300


@pytest.mark.parametrize("chunksize", [1, 7])
def test_results_that_nobody_wants_are_worked_for_all_the_same(
    make_pool: MakePool, tmp_path: Path, chunksize: int
) -> None:
    pool = make_pool(max_backlog=3)
    log = tmp_path / "log"
    pool.map(functools.partial(tasks.append, log), range(100), chunksize=chunksize)
    pool.shutdown()
    assert log.read_text().splitlines() == [str(number) for number in range(100)]


def test_an_iterator_that_was_begun_and_dropped_submits_no_more(
    make_pool: MakePool, tmp_path: Path
) -> None:
    pool = make_pool(max_backlog=3)
    log = tmp_path / "log"
    results = pool.map(functools.partial(tasks.append, log), range(100))
    next(results)
    del results
    pool.shutdown()
    assert len(log.read_text().splitlines()) < 50


def test_a_task_that_raises_the_end_of_an_iteration(pool: deadpool.Deadpool) -> None:
    with pytest.raises(RuntimeError, match="StopIteration"):
        list(pool.map(tasks.raise_, [StopIteration()]))
