"""``deadpool.pool.Pool`` does what ``multiprocessing.Pool`` does."""

from __future__ import annotations

import functools
import inspect
import multiprocessing
import multiprocessing.pool
import operator
import os
import pickle
from collections.abc import Iterator
from typing import Any

import pool_tasks
import pytest
import tasks

from deadpool.pool import MaybeEncodingError, Pool


@pytest.fixture
def pool(_nothing_left: None, start_method: str) -> Iterator[Pool]:
    with Pool(2, context=multiprocessing.get_context(start_method)) as pool:
        yield pool


def test_every_way_to_call(pool: Pool) -> None:
    square = pool_tasks.square
    assert pool.apply(square, (3,)) == 9
    assert pool.apply(square, (), {"x": 3}) == 9
    assert pool.apply_async(square, [3]).get() == 9
    assert pool.map(square, range(10)) == [x * x for x in range(10)]
    assert pool.map(square, iter(range(10)), chunksize=3) == [x * x for x in range(10)]
    assert pool.map_async(square, range(3)).get() == [0, 1, 4]
    assert pool.starmap(operator.mul, [(1, 2), (3, 4)]) == [2, 12]
    assert pool.starmap_async(operator.mul, [(1, 2), (3, 4)], 1).get() == [2, 12]
    assert list(pool.imap(square, range(10))) == [x * x for x in range(10)]
    assert list(pool.imap(square, range(10), chunksize=4)) == [x * x for x in range(10)]
    assert sorted(pool.imap_unordered(square, range(10), 3)) == [x * x for x in range(10)]


def test_it_is_one_of_the_standard_librarys_pools() -> None:
    with Pool(1) as pool:
        assert isinstance(pool, multiprocessing.pool.Pool)
        assert isinstance(pool.apply_async(abs, (1,)), multiprocessing.pool.AsyncResult)
        assert isinstance(pool.map_async(abs, [1]), multiprocessing.pool.MapResult)
        assert isinstance(pool.imap(abs, [1]), multiprocessing.pool.IMapIterator)


def test_signatures_begin_as_in_the_standard_library() -> None:
    for name in ("__init__", "apply", "apply_async", "map", "map_async", "starmap", "imap"):
        theirs = inspect.signature(getattr(multiprocessing.pool.Pool, name)).parameters.values()
        ours = list(inspect.signature(getattr(Pool, name)).parameters.values())
        for mine, other in zip(ours, theirs, strict=False):
            assert (mine.name, mine.default, mine.kind) == (other.name, other.default, other.kind)


def test_the_default_start_method_is_that_of_multiprocessing() -> None:
    with Pool(1) as pool:
        assert pool._ctx is multiprocessing.get_context()


def test_functions_keep_keywords_that_look_like_ours() -> None:
    with Pool(1) as pool:
        assert pool.apply(pool_tasks.add_with, (1,), {"b": 2, "deadpool_c": 3}) == 6
        assert pool.apply(functools.partial(pool_tasks.add_with, 1), (4,)) == 5


def test_workers_are_named_and_numbered_as_in_the_standard_library(pool: Pool) -> None:
    name, identity, daemon = pool.apply(pool_tasks.process_facts)
    assert name.endswith(f"PoolWorker-{identity[0]}")
    assert daemon
    seen = {identity for _, identity, _ in pool.map(pool_tasks.process_facts, range(50), 1)}
    assert all(len(identity) == 1 for identity in seen)


def test_daemonic_workers_have_no_pools_of_their_own() -> None:
    with Pool(1) as pool:
        assert "daemonic processes are not allowed" in pool.apply(pool_tasks.nested_pool_fails)


@pytest.mark.parametrize(
    ("options", "error"),
    [
        ({"processes": 0}, ValueError("Number of processes must be at least 1")),
        ({"processes": -1}, ValueError("Number of processes must be at least 1")),
        ({"processes": "2"}, TypeError()),
        ({"processes": 1.5}, TypeError()),
        ({"initializer": 7}, TypeError("initializer must be a callable")),
        ({"maxtasksperchild": 0}, ValueError("maxtasksperchild must be a positive int or None")),
        ({"maxtasksperchild": 1.5}, ValueError("maxtasksperchild must be a positive int or None")),
        ({"timeout": -1}, ValueError()),
        ({"soft_timeout": "1"}, TypeError()),
        ({"compat": "celery"}, ValueError()),
        ({"max_memory_per_child": 0}, ValueError()),
        ({"on_process_up": 1}, TypeError()),
        ({"on_timeout_set": 1}, TypeError("on_timeout_set must be a callable")),
        ({"on_timeout_cancel": 1}, TypeError("on_timeout_cancel must be a callable")),
        ({"initargs": 1}, TypeError("initargs must be an iterable")),
        ({"initargs": None}, TypeError("initargs must be an iterable")),
        ({"context": "thread"}, ValueError("cannot find context for 'thread'")),
        ({"context": 7}, TypeError("context must be a multiprocessing context")),
    ],
)
def test_bad_options(options: dict[str, Any], error: Exception) -> None:
    with pytest.raises(type(error), match=str(error) or None):
        Pool(**options)


def test_bad_calls(pool: Pool) -> None:
    for submit in (pool.imap, pool.imap_unordered, pool.map):
        with pytest.raises(ValueError, match=r"Chunksize must be 1\+, not 0"):
            submit(abs, [1], 0)
        with pytest.raises(TypeError, match="'float' object cannot be interpreted as an integer"):
            submit(abs, [1], 1.5)  # type: ignore[arg-type]
    for call in (pool.apply, pool.apply_async):
        with pytest.raises(TypeError, match="'int' object is not callable"):
            result = call(7)  # type: ignore[arg-type]
            result.get()
    with pytest.raises(TypeError, match="not callable"):
        pool.map(None, [1])  # type: ignore[arg-type]
    with pytest.raises(TypeError):
        pool.map(abs, 5)  # type: ignore[arg-type]
    with pytest.raises(TypeError):
        next(pool.imap(abs, 5))  # type: ignore[arg-type]
    for name in ("callback", "error_callback", "accept_callback", "timeout_callback"):
        with pytest.raises(TypeError, match=f"^{name} must be a callable"):
            pool.apply_async(abs, [1], **{name: 1})
    for name in ("callback", "error_callback"):
        with pytest.raises(TypeError, match=f"^{name} must be a callable"):
            pool.map_async(abs, [1], **{name: 1})  # type: ignore[arg-type]
    with pytest.raises(NotImplementedError, match="pool objects cannot be passed"):
        pickle.dumps(pool)


def test_odd_arguments_that_the_standard_library_takes() -> None:
    with Pool(True, maxtasksperchild=True, context="spawn") as pool:
        assert len({pool.apply(os.getpid) for _ in range(2)}) == 2


def test_an_exception_keeps_its_type_and_shows_where_it_was_raised(pool: Pool) -> None:
    with pytest.raises(KeyError) as caught:
        pool.map(pool_tasks.square_or_raise, range(5), chunksize=1)
    assert caught.value.args == ("three", 3)
    cause = caught.value.__cause__
    assert type(cause) is multiprocessing.pool.RemoteTraceback  # type: ignore[attr-defined]
    assert "square_or_raise" in cause.tb
    assert pool.apply(abs, (-1,)) == 1


def test_what_cannot_be_pickled(pool: Pool) -> None:
    for _ in range(5):
        with pytest.raises((AttributeError, pickle.PicklingError)):
            pool.apply(lambda: 1)
        with pytest.raises((AttributeError, pickle.PicklingError)):
            pool.map(abs, [1, lambda: 1], 1)
        with pytest.raises(MaybeEncodingError, match="Error sending result"):
            pool.apply(tasks.lambda_result)
        with pytest.raises(MaybeEncodingError, match="ValueError"):
            pool.apply(pool_tasks.raise_unpicklable_exception)
    assert pool.apply(abs, (-1,)) == 1


def test_an_exception_that_cannot_be_unpickled_is_told_of(pool: Pool) -> None:
    with pytest.raises(Exception):  # noqa: B017
        pool.apply(tasks.raise_picky)
    assert pool.apply(abs, (-1,)) == 1


def test_a_returned_exception_is_a_result(pool: Pool) -> None:
    assert isinstance(pool.apply(tasks.return_exception), Exception)


def test_sys_exit_in_a_task_reaches_the_caller(pool: Pool) -> None:
    with pytest.raises(SystemExit) as caught:
        pool.apply(tasks.exit_interpreter, (3,))
    assert caught.value.code == 3
    assert pool.apply(abs, (-1,)) == 1


def test_the_initializer_runs_in_each_worker_with_its_arguments(start_method: str) -> None:
    context = multiprocessing.get_context(start_method)
    with Pool(2, tasks.remember, ("key", "value"), context=context) as pool:
        assert set(pool.map(tasks.recall, ["key"] * 20, 1)) == {"value"}


def test_a_failing_initializer_fails_the_task_and_hangs_nothing(start_method: str) -> None:
    context = multiprocessing.get_context(start_method)
    with Pool(1, pool_tasks.fail_to_initialize, context=context) as pool:
        with pytest.raises(multiprocessing.ProcessError) as caught:
            pool.apply(abs, (1,))
        assert isinstance(caught.value.__cause__, OSError)


def test_workers_are_replaced_after_so_many_tasks(start_method: str) -> None:
    context = multiprocessing.get_context(start_method)
    with Pool(1, maxtasksperchild=2, context=context) as pool:
        pids = pool.map(tasks.getpid, range(6), 1)
        assert len(set(pids)) == 3
        # A chunk is one task.
        assert len(set(pool.map(tasks.getpid, range(20), 10))) == 1


def test_a_pool_shows_its_processes(pool: Pool) -> None:
    assert len(pool._pool) == 2
    pids = {process.pid for process in pool._pool}
    assert set(pool.map(tasks.getpid, range(50), 1)) <= pids
    assert all(process.is_alive() and process.exitcode is None for process in pool._pool)
    assert "state=RUN pool_size=2" in repr(pool)
    assert os.getpid() not in pids


def test_a_large_map_of_small_chunks_keeps_order() -> None:
    with Pool(2) as pool:
        assert pool.map(pool_tasks.square, range(5000), 1) == [x * x for x in range(5000)]


def test_an_iterable_that_says_a_wrong_length_hangs_nothing(pool: Pool) -> None:
    class Liar(list[int]):
        def __len__(self) -> int:
            return 10

    assert pool.map(abs, Liar([-1, -2])) == [1, 2]


def test_an_iterable_that_raises(pool: Pool) -> None:
    class Raising:
        def __len__(self) -> int:
            return 5

        def __iter__(self) -> Iterator[int]:
            yield 1
            raise ValueError("of the iterable")

    result = pool.map_async(abs, Raising(), 1)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="of the iterable") as caught:
        result.get()
    assert caught.value.__cause__ is None
