"""``imap`` and ``imap_unordered``: lazy, infinite and failing iterables, and readers that go away."""

from __future__ import annotations

import itertools
import multiprocessing
import queue
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pool_tasks
import pytest
import tasks
from processes import LONG_SECONDS, eventually

from deadpool.pool import Pool, Terminated


@pytest.fixture
def pool(_nothing_left: None) -> Iterator[Pool]:
    with Pool(2) as pool:
        yield pool


class Counting:
    """An infinite iterable that knows how much was taken from it."""

    def __init__(self) -> None:
        self.taken = 0

    def __iter__(self) -> Iterator[int]:
        while True:
            self.taken += 1
            yield self.taken - 1


def steady(look: Callable[[], int]) -> int:
    """Wait until a number has stopped changing, and return it."""
    last = [look()]

    def is_steady() -> bool:
        threading.Event().wait(0.1)
        last.append(look())
        return last[-1] == last[-2]

    eventually(is_steady)
    return last[-1]


@pytest.mark.parametrize("chunksize", [1, 10, 1000])
@pytest.mark.parametrize("name", ["imap", "imap_unordered"])
def test_an_infinite_iterable_is_not_taken_far_ahead(pool: Pool, name: str, chunksize: int) -> None:
    numbers = Counting()
    iterator = getattr(pool, name)(pool_tasks.square, numbers, chunksize)
    ahead = steady(lambda: numbers.taken)
    # Enough to keep both workers busy, and not much more.
    assert 2 * chunksize <= ahead <= max(128, 8 * chunksize)
    read = [next(iterator) for _ in range(500)]
    if name == "imap":
        assert read == [n * n for n in range(500)]
    assert steady(lambda: numbers.taken) <= 500 + max(128, 8 * chunksize) + chunksize


def test_nothing_is_taken_before_there_is_room(pool: Pool) -> None:
    source: queue.Queue[int] = queue.Queue()
    iterator = pool.imap(pool_tasks.square, iter(source.get, None))
    for number in range(300):
        source.put(number)
        # Each result comes though the iterable has not said what follows.
        assert iterator.next(LONG_SECONDS) == number * number
    with pytest.raises(multiprocessing.TimeoutError):
        iterator.next(0.05)
    source.put(None)  # type: ignore[arg-type]
    with pytest.raises(StopIteration):
        iterator.next(LONG_SECONDS)
    with pytest.raises(StopIteration):
        next(iterator)


def test_an_imap_over_an_imap_of_the_same_pool(pool: Pool) -> None:
    inner = pool.imap(pool_tasks.square, range(1000))
    outer = pool.imap_unordered(pool_tasks.square, inner, 7)
    assert sorted(outer) == [n**4 for n in range(1000)]


@pytest.mark.parametrize("chunksize", [1, 3])
def test_an_exception_of_a_task_comes_in_its_place(pool: Pool, chunksize: int) -> None:
    iterator = pool.imap(pool_tasks.square_or_raise, range(6), chunksize)
    read: list[Any] = []
    while True:
        try:
            read.append(next(iterator))
        except KeyError:
            read.append("error")
        except StopIteration:
            break
    assert read == ([0, 1, 4, "error", 16, 25] if chunksize == 1 else [0, 1, 4, "error"])


@pytest.mark.parametrize("kind", [OSError, KeyboardInterrupt, SystemExit])
@pytest.mark.parametrize("name", ["imap", "imap_unordered"])
def test_an_exception_of_the_iterable_comes_last(
    pool: Pool, name: str, kind: type[BaseException]
) -> None:
    error = kind("of the iterable")

    def numbers() -> Iterator[int]:
        yield from range(10)
        raise error

    iterator = getattr(pool, name)(pool_tasks.square, numbers())
    read = []
    with pytest.raises(kind) as caught:
        for value in iterator:
            read.append(value)  # noqa: PERF402
    assert caught.value is error
    assert set(read) <= {n * n for n in range(10)}
    if name == "imap":
        assert len(read) == 10
    rest = list(iterator)
    assert len(read) + len(rest) == 10


def test_what_cannot_be_pickled_comes_in_its_place(pool: Pool) -> None:
    iterator = pool.imap(abs, [-1, lambda: 1, -2])  # type: ignore[list-item]
    assert next(iterator) == 1
    with pytest.raises(Exception, match="pickle"):
        next(iterator)
    assert next(iterator) == 2


def test_a_reader_that_goes_away_ends_an_infinite_iterable() -> None:
    pool = Pool(2)
    for square in pool.imap(pool_tasks.square, itertools.count()):
        if square > 100:
            break
    pool.close()
    pool.join()


def test_a_reader_that_never_came_gets_all_calls_made(tmp_path: Path) -> None:
    log = tmp_path / "log"
    pool = Pool(2)
    pool.imap_unordered(log_line, ((log, n) for n in range(500)))
    pool.close()
    pool.join()
    assert sorted(map(int, log.read_text().split())) == list(range(500))


def log_line(call: tuple[Path, int]) -> None:
    tasks.append(*call)


@pytest.mark.parametrize("name", ["imap", "imap_unordered"])
def test_results_can_be_read_after_the_end(name: str) -> None:
    pool = Pool(2)
    iterator = getattr(pool, name)(pool_tasks.square, range(1000))
    pool.close()
    pool.join()
    assert sorted(iterator) == [n * n for n in range(1000)]


@pytest.mark.parametrize("name", ["imap", "imap_unordered"])
def test_terminate_ends_the_iteration_with_an_exception(name: str, tmp_path: Path) -> None:
    release = threading.Event()

    def numbers() -> Iterator[tuple[Path, int]]:
        yield tmp_path, 1
        release.wait()

    pool = Pool(2)
    iterator = getattr(pool, name)(hold, numbers())
    tasks.await_file(tmp_path / "begun-1")
    # The feeder is inside of the iterable, and that does not matter.
    pool.terminate()
    pool.join()
    for _ in range(2):
        with pytest.raises(Terminated):
            iterator.next(LONG_SECONDS)
    with pytest.raises(StopIteration):
        next(iterator)
    release.set()


def hold(call: tuple[Path, int]) -> int:
    return pool_tasks.hold_begun(*call)


def test_threads_of_many_iterators_end(pool: Pool) -> None:
    iterators = [pool.imap(pool_tasks.square, range(100)) for _ in range(20)]
    assert [sum(iterator) for iterator in iterators] == [sum(n * n for n in range(100))] * 20
    eventually(lambda: not [t for t in threading.enumerate() if t.name == "deadpool-imap"])
