"""The messages that users see, as real pools produce them, held against a snapshot.

``pytest --snapshot-update`` writes the snapshot anew. Read its diff as a user would read the messages.
"""

from __future__ import annotations

import logging
import pickle
import re
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import tasks
from pools import MakePool
from processes import await_path, await_pid, eventually, run_script
from syrupy.assertion import SnapshotAssertion

import deadpool
import deadpool.pool

# What differs from run to run, and what takes its place.
VARIABLE = [
    (r"\n\n(?:Fatal Python error|Current thread|Thread|  File)[\s\S]*", "\n\n<stack>"),
    (r"0x[0-9a-f]+", "<address>"),
    (r"(?i)\b(worker|process|zygote|pid)([ =])\d+", r"\1\2<pid>"),
    (r"\d[\d,]*\.\d MiB of memory(?=, more| when)", "<size> of memory"),
    (r"rss_bytes=\d+", "rss_bytes=<bytes>"),
    (r"seconds=[\d.e-]+", "seconds=<seconds>"),
    (r"starts in [\d.]+ s", "starts in <seconds> s"),
    (r"/[\w/.-]+/(?=[\w-]+\.py)", "<directory>/"),
    (r"line \d+", "line <line>"),
    (r"\b[\w.]*test_messages\b", "test_messages"),
]


def constant(text: object) -> str:
    """Replace what differs from run to run."""
    result = str(text)
    for pattern, replacement in VARIABLE:
        result = re.sub(pattern, replacement, result)
    return result


def shown(error: BaseException | None) -> str:
    """Return an exception as the end of a traceback shows it."""
    assert error is not None
    return constant("".join(traceback.format_exception_only(type(error), error))).strip()


# Tasks that do not return: how the pool is made, and what is submitted.
ENDS: dict[str, tuple[dict[str, Any], tuple[Any, ...], dict[str, Any]]] = {
    "timed out": ({}, (tasks.sleep, 3600), {"deadpool_timeout": 0.2}),
    "timed out before its start": ({}, (tasks.nothing,), {"deadpool_timeout": 0}),
    "soft timeout": ({}, (tasks.sleep, 3600), {"deadpool_soft_timeout": 0.2}),
    "memory limit": ({}, (tasks.allocate, 1 << 29), {"deadpool_memory_limit_bytes": 200 << 20}),
    "exited": ({}, (tasks.exit_process, 3), {}),
    "killed": ({}, (tasks.kill_itself, 9), {}),
    "crashed": ({}, (tasks.segfault,), {}),
    "sent garbage": ({}, (tasks.write_garbage,), {}),
    "initializer raised": (
        {"initializer": tasks.raise_picky, "on_initializer_error": "fail"},
        (tasks.nothing,),
        {},
    ),
    "initializer exited": (
        {"initializer": tasks.exit_process, "initargs": (5,)},
        (tasks.nothing,),
        {},
    ),
    "argument can't be pickled": ({}, (tasks.identity, lambda: None), {}),
    "argument can't be unpickled": ({}, (tasks.identity, tasks.FailsUnpickling()), {}),
    "result can't be pickled": ({}, (tasks.lambda_result,), {}),
    "exception can't be pickled": ({}, (tasks.raise_unpicklable,), {}),
    "exception can't be unpickled": ({}, (tasks.raise_unreadable,), {}),
    "raised SystemExit": ({}, (tasks.exit_interpreter, 4), {}),
    "raised KeyError": ({}, (tasks.raise_, KeyError("why")), {}),
}


@pytest.mark.parametrize("name", ENDS)
def test_a_task_that_does_not_return(
    make_pool: MakePool, snapshot: SnapshotAssertion, name: str
) -> None:
    options, call, keywords = ENDS[name]
    assert shown(make_pool(**options).submit(*call, **keywords).exception(50)) == snapshot


def test_a_task_that_dies_twice(
    make_pool: MakePool, tmp_path: Path, snapshot: SnapshotAssertion
) -> None:
    future = make_pool().submit(tasks.count_and_die, tmp_path / "log", deadpool_retries=1)
    assert shown(future.exception(50)) == snapshot


def test_a_remote_traceback(make_pool: MakePool, snapshot: SnapshotAssertion) -> None:
    error = make_pool().submit(tasks.raise_chained).exception(20)
    assert error is not None
    assert constant(error.__cause__) == snapshot


WRONG_ARGUMENTS: list[tuple[str, Any]] = [
    *(("max_workers", value) for value in (0, 1.5, True, 1 << 63)),
    ("min_workers", -1),
    ("max_tasks_per_child", 0),
    ("max_worker_memory_bytes", 0),
    ("malloc_trim_rss_memory_threshold_bytes", -1),
    ("max_backlog", -1),
    *(("mp_context", value) for value in ("thread", 3)),
    *(("initializer", value) for value in (3, lambda: None)),
    ("initargs", 3),
    ("finalizer", 3),
    ("finalargs", 3),
    ("propagate_environ", 3),
    ("on_initializer_error", "ignore"),
    *(("kill_grace_period", value) for value in (-1, float("nan"))),
    ("worker_idle_timeout", "1"),
    ("worker_start_timeout", -1),
    ("serializer", 3),
    ("on_worker_up", 3),
    ("on_worker_down", 3),
]


def test_wrong_arguments(snapshot: SnapshotAssertion) -> None:
    told = []
    for name, value in WRONG_ARGUMENTS:
        with pytest.raises((TypeError, ValueError, AttributeError, pickle.PicklingError)) as raised:
            deadpool.Deadpool(**{"max_workers": 1, name: value})
        told.append(shown(raised.value))
    assert told == snapshot


WRONG_CALLS: list[tuple[str, Any]] = [
    *(("deadpool_timeout", value) for value in (-1, "1", float("nan"))),
    ("deadpool_soft_timeout", -1),
    *(("deadpool_priority", value) for value in (-1, 1.5, 1 << 32)),
    *(("deadpool_memory_limit_bytes", value) for value in (0, "1")),
    ("deadpool_retries", -1),
    ("deadpool_block", 3),
    ("deadpool_timout", 1),
]
WRONG_MAPS: list[tuple[str, Any]] = [
    *(("chunksize", value) for value in (0, 1.5)),
    *(("buffersize", value) for value in (0, "1")),
    ("deadpool_timout", 1),
]


def test_wrong_calls(pool: deadpool.Deadpool, snapshot: SnapshotAssertion) -> None:
    told = []
    for name, value in WRONG_CALLS:
        with pytest.raises((TypeError, ValueError, OverflowError)) as raised:
            pool.submit(tasks.nothing, **{name: value})
        told.append(shown(raised.value))
    for name, value in WRONG_MAPS:
        with pytest.raises((TypeError, ValueError)) as raised:
            list(pool.map(tasks.nothing, [1], **{name: value}))
        told.append(shown(raised.value))
    assert told == snapshot


def test_refusals(
    pool: deadpool.Deadpool, begun: Path, release: Path, snapshot: SnapshotAssertion
) -> None:
    future = pool.submit(tasks.hold, begun, release)
    await_path(begun)
    acts: list[Callable[[], Any]] = [
        lambda: pool.submit(3),  # type: ignore[arg-type]
        lambda: pool.resize(0),
        lambda: pickle.dumps(pool),
        lambda: pickle.dumps(future),
        lambda: future.cancel_and_kill_if_running(1000),
        lambda: future.result(0.01),
        lambda: release.touch() or pool.shutdown() or pool.submit(tasks.nothing),
    ]
    told = []
    for act in acts:
        with pytest.raises(Exception) as raised:  # Each kind is in the snapshot.
            act()
        told.append(shown(raised.value))
    assert told == snapshot


def test_a_full_backlog(
    make_pool: MakePool, begun: Path, release: Path, snapshot: SnapshotAssertion
) -> None:
    pool = make_pool(max_backlog=1)
    pool.submit(tasks.hold, begun, release)
    await_path(begun)
    pool.submit(tasks.nothing)
    with pytest.raises(deadpool.BacklogFull) as raised:
        pool.submit(tasks.nothing, deadpool_block=False)
    release.touch()
    assert shown(raised.value) == snapshot


def test_a_pool_in_a_fork(tmp_path: Path, snapshot: SnapshotAssertion) -> None:
    out, _ = run_script(
        tmp_path,
        """
        pool = deadpool.Deadpool(1)
        waits = pool.submit(tasks.hold, here / "begun", here / "release")
        reading, writing = os.pipe()
        if os.fork() == 0:
            for act in (lambda: pool.submit(tasks.nothing), waits.result, pool.get_statistics, pool.shutdown):
                try:
                    act()
                except BaseException as error:
                    os.write(writing, f"{type(error).__name__}: {error}\\n".encode())
            os._exit(0)
        os.close(writing)
        with open(reading) as told:
            print(told.read(), end="")
        os.wait()
        (here / "release").touch()
        pool.shutdown()
        """,
    )
    assert constant(out) == snapshot


@pytest.fixture
def records(caplog: pytest.LogCaptureFixture) -> Callable[[], list[str]]:
    """Return the lines of the pool's loggers, each once: which worker says it first is left to chance."""
    caplog.set_level(logging.DEBUG, logger="deadpool")

    def lines() -> list[str]:
        ours = [record for record in caplog.records if record.name.startswith("deadpool")]
        return sorted({f"{r.name} {r.levelname}: {constant(r.getMessage())}" for r in ours})

    return lines


# How the pool is made, and the one task that it gets.
LOGGED: dict[str, tuple[dict[str, Any], tuple[Any, ...]]] = {
    "death": ({}, (tasks.kill_itself, 9)),
    "recycling": ({"max_tasks_per_child": 1}, (tasks.nothing,)),
    "start that fails": (
        {"initializer": tasks.exit_process, "initargs": (5,)},
        (tasks.nothing,),
    ),
    "initializer that raises": (
        {"initializer": tasks.raise_picky, "on_initializer_error": "fail"},
        (tasks.nothing,),
    ),
    "finalizer that hangs": (
        {"finalizer": tasks.sleep, "finalargs": (60,), "kill_grace_period": 0.02},
        (tasks.nothing,),
    ),
    "garbage": ({}, (tasks.write_garbage,)),
}


@pytest.mark.parametrize("name", LOGGED)
def test_the_log(
    make_pool: MakePool,
    records: Callable[[], list[str]],
    snapshot: SnapshotAssertion,
    name: str,
) -> None:
    options, call = LOGGED[name]
    pool = make_pool(**options)
    pool.submit(*call).exception(30)
    pool.shutdown()
    assert records() == snapshot


def test_the_log_of_a_start_that_takes_too_long(
    make_pool: MakePool, records: Callable[[], list[str]], snapshot: SnapshotAssertion
) -> None:
    pool = make_pool(initializer=tasks.sleep, initargs=(60,), worker_start_timeout=0.3)
    eventually(lambda: any("0.3 s" in line for line in records()))
    line = next(line for line in records() if "0.3 s" in line)
    pool.shutdown(wait=True, cancel_futures=True)
    assert line == snapshot


def test_a_worker(
    make_pool: MakePool, begun: Path, release: Path, snapshot: SnapshotAssertion
) -> None:
    pool = make_pool()
    pool.submit(tasks.hold, begun, release)
    await_pid(begun)
    (worker,) = pool.workers()
    release.touch()
    assert constant(repr(worker)) == snapshot


def test_names_of_classes(snapshot: SnapshotAssertion) -> None:
    public = [
        *(getattr(deadpool, name) for name in deadpool.__all__),
        *(getattr(deadpool.pool, name) for name in deadpool.pool.__all__),
    ]
    names = {f"{cls.__module__}.{cls.__qualname__}" for cls in public if isinstance(cls, type)}
    assert sorted(names) == snapshot


# What is done with a pool of the multiprocessing interface that has one process.
INTERFACE: dict[str, Callable[[deadpool.pool.Pool], Any]] = {
    "limit": lambda pool: pool.apply_async(tasks.sleep, (3600,), timeout=0.2).get(20),
    "soft limit": lambda pool: pool.apply_async(tasks.sleep, (3600,), soft_timeout=0.2).get(20),
    "lost": lambda pool: pool.apply_async(tasks.kill_itself, (9,)).get(20),
    "unpicklable": lambda pool: pool.apply_async(tasks.lambda_result).get(20),
    "too early": lambda pool: pool.apply_async(tasks.sleep, (60,)).get(0.01),
    "not ready": lambda pool: pool.apply_async(tasks.sleep, (60,)).successful(),
    "after close": lambda pool: pool.close() or pool.apply(tasks.nothing),
    "still running": lambda pool: pool.join(),
    "no function": lambda pool: pool.map(3, [1, 2]),  # type: ignore[arg-type]
    "shrunk too far": lambda pool: pool.shrink(5),
}


@pytest.mark.parametrize("name", INTERFACE)
def test_the_multiprocessing_interface(snapshot: SnapshotAssertion, name: str) -> None:
    with deadpool.pool.Pool(1) as pool, pytest.raises(Exception) as raised:
        INTERFACE[name](pool)
    assert shown(raised.value) == snapshot


def test_objects_of_the_multiprocessing_interface(snapshot: SnapshotAssertion) -> None:
    with deadpool.pool.Pool(1) as pool:
        result = pool.apply_async(tasks.nothing)
        result.wait(20)
        texts = [constant(repr(pool)), constant(repr(result))]
        pool.close()
        pool.join()
        texts.append(constant(repr(pool)))
    assert texts == snapshot
