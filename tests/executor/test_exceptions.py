"""Exceptions: those of the package, and those of tasks on their way to the caller."""

from __future__ import annotations

import builtins
import concurrent.futures
import concurrent.futures.process
import copy
import multiprocessing
import pickle
import queue
import signal
import sys
import threading
from typing import Any

import pytest
import tasks

import deadpool
import deadpool.pool
from deadpool import _failures

pytestmark = pytest.mark.every_python

LONG_SECONDS = 20.0


# The package's own.


def test_bases() -> None:
    assert issubclass(deadpool.TimeoutError, concurrent.futures.TimeoutError)
    assert issubclass(deadpool.ProcessError, multiprocessing.ProcessError)
    assert issubclass(deadpool.MemoryLimitError, deadpool.ProcessError)
    assert issubclass(deadpool.PoolClosed, RuntimeError)
    assert issubclass(deadpool.BacklogFull, queue.Full)
    assert not issubclass(
        deadpool.SoftTimeoutError, (TimeoutError, concurrent.futures.TimeoutError)
    )
    assert deadpool.CancelledError is concurrent.futures.CancelledError
    assert deadpool.RemoteTraceback is concurrent.futures.process._RemoteTraceback


DEATHS = [deadpool.ProcessError, deadpool.MemoryLimitError, deadpool.TimeoutError]


@pytest.mark.parametrize("cls", DEATHS)
def test_facts_are_attributes(cls: Any) -> None:
    plain = cls("text")
    assert str(plain) == "text"
    names = ("pid", "exitcode", "signal", "task", "rss_bytes", "oom_killed", "stack")
    assert [getattr(plain, name) for name in names] == [None] * 7
    assert cls(exitcode=-9).signal is signal.SIGKILL
    assert cls(exitcode=3).signal is None
    assert cls(exitcode=-60).signal == 60
    with pytest.raises(TypeError):
        cls("text", unknown=1)


@pytest.mark.parametrize("cls", DEATHS)
@pytest.mark.parametrize("duplicate", [copy.copy, lambda error: pickle.loads(pickle.dumps(error))])
def test_facts_survive_pickling(cls: Any, duplicate: Any) -> None:
    error = cls(
        "text",
        pid=1,
        exitcode=-11,
        task="module.function",
        rss_bytes=2,
        oom_killed=False,
        stack="a stack",
    )
    again = duplicate(error)
    assert type(again) is cls
    assert again.args == ("text",)
    assert vars(again) == vars(error)
    assert again.signal is signal.SIGSEGV


def test_a_soft_timeout_says_what_it_is() -> None:
    assert "soft timeout" in str(deadpool.SoftTimeoutError())
    assert str(deadpool.SoftTimeoutError("other")) == "other"


# What is said of a task that something other than its code ended.

KNOWN = {"pid": 4242, "exitcode": -9, "rss_bytes": 3 << 20, "oom_killed": None, "stack": None}


@pytest.mark.parametrize(
    ("kind", "facts", "cls", "text"),
    [
        (
            "timed_out",
            {"timeout": 1.5, "rss_bytes": None},
            deadpool.TimeoutError,
            "Task mod.crunch timed out after 1.5 s; worker 4242 was killed",
        ),
        (
            "worker_died",
            {"rss_bytes": None},
            deadpool.ProcessError,
            "Worker process 4242 died while running mod.crunch: exitcode -9 (Killed)",
        ),
        (
            "worker_died",
            {"exitcode": 3, "attempts": 2},
            deadpool.ProcessError,
            (
                "Worker process 4242 died while running mod.crunch, at attempt 2: exitcode 3; "
                "it used 3.0 MiB of memory when last seen"
            ),
        ),
        (
            "worker_died",
            {"oom_killed": True},
            deadpool.ProcessError,
            (
                "Worker process 4242 died while running mod.crunch: exitcode -9 (Killed); the kernel "
                "killed it for want of memory and it used 3.0 MiB of memory when last seen"
            ),
        ),
        (
            "memory_exceeded",
            {"limit_bytes": 1 << 20, "used_bytes": 3 << 20},
            deadpool.MemoryLimitError,
            (
                "Task mod.crunch used 3.0 MiB of memory, more than its limit of 1.0 MiB; "
                "worker 4242 was killed"
            ),
        ),
        (
            "condemned",
            {"reason": "no magic number"},
            deadpool.ProcessError,
            "Worker 4242 was killed while running mod.crunch: no magic number",
        ),
        (
            "not_started",
            {"reason": "five died", "pid": None},
            deadpool.ProcessError,
            "Task mod.crunch was not run, since no worker could be started: five died",
        ),
        (
            "pool_failed",
            {"reason": "a panic"},
            deadpool.ProcessError,
            "Task mod.crunch was given up, since the pool failed: a panic",
        ),
    ],
)
def test_a_death_reads_as_a_sentence(
    kind: str, facts: dict[str, Any], cls: type, text: str
) -> None:
    facts = KNOWN | facts
    error = _failures.failure(kind, task="mod.crunch", **facts)
    assert type(error) is cls
    assert str(error) == text
    assert error.task == "mod.crunch"
    assert (error.pid, error.exitcode) == (facts["pid"], facts["exitcode"])
    with_stack = _failures.failure(kind, task="mod.crunch", **facts | {"stack": "File x, line 1"})
    assert str(with_stack) == f"{text}\n\nFile x, line 1"


def test_a_failed_initializer_is_the_cause() -> None:
    reason = ValueError("no such model")
    error = _failures.failure("initializer_failed", task="mod.crunch", exception=reason)
    assert str(error).endswith("since the initializer failed: ValueError('no such model')")
    assert error.__cause__ is reason


# Those of tasks.


def raise_taken_apart(parts: Any) -> None:
    # Made in the worker as it was here, whatever its class does when it is pickled.
    raise _failures.put_together(parts)


def raise_made(cls: type[Exception], argument: Any) -> None:
    raise cls(argument() if callable(argument) else argument)


class ThreeArgumentsError(Exception):
    """Passes fewer arguments to its base than it takes."""

    def __init__(self, first: int, second: int, third: int) -> None:
        super().__init__(first)
        self.rest = (second, third)


class NoSuperError(Exception):
    def __init__(self, first: int, second: int) -> None:
        self.sum = first + second


class FormattingError(Exception):
    """What it passes to its base is not what it was given."""

    def __init__(self, code: Any = 5) -> None:
        super().__init__(f"code {code}")


class KeywordError(OSError):
    def __init__(self, *, path: str) -> None:
        super().__init__(2, "no such thing", path)


class ReducingError(Exception):
    def __init__(self, first: int, second: int) -> None:
        super().__init__("a message")
        self.pair = (first, second)

    def __reduce__(self) -> Any:
        return ReducingError, self.pair


class UnhashableError(Exception):
    __hash__ = None  # type: ignore[assignment]

    def __eq__(self, other: object) -> bool:
        return True


class CustomBaseError(BaseException):
    pass


def with_note() -> Exception:
    error = ValueError("text")
    error.note = ["an attribute"]  # type: ignore[attr-defined]
    return error


ARRIVING = [
    ThreeArgumentsError(1, 2, 3),
    NoSuperError(1, 2),
    FormattingError(7),
    KeywordError(path="here"),
    ReducingError(1, 2),
    UnhashableError(1),
    CustomBaseError(1),
    with_note(),
    KeyError("key"),
    OSError(2, "text", "file"),
    UnicodeDecodeError("utf-8", b"x", 0, 1, "reason"),
    ImportError("text", name="module"),
    StopIteration(4),
    SystemExit(3),
    KeyboardInterrupt(),
    GeneratorExit(),
    deadpool.ProcessError("text", pid=4, exitcode=-9),
]


@pytest.mark.parametrize("error", ARRIVING, ids=lambda error: type(error).__name__)
def test_type_and_arguments_arrive(pool: deadpool.Deadpool, error: BaseException) -> None:
    parts = pickle.loads(pickle.dumps(_failures.take_apart(error)))
    got = pool.submit(raise_taken_apart, parts).exception(LONG_SECONDS)
    assert type(got) is type(error)
    assert got.args == error.args
    assert str(got) == str(error)
    assert vars(got) == vars(error)
    for name in ("errno", "filename", "name", "code"):
        assert getattr(got, name, None) == getattr(error, name, None)
    cause = got.__cause__
    assert type(cause) is deadpool.RemoteTraceback
    assert str(cause) == cause.tb
    assert "raise _failures.put_together(parts)" in cause.tb


def test_the_chain_of_causes_is_in_the_text(pool: deadpool.Deadpool) -> None:
    got = pool.submit(tasks.raise_chained).exception(LONG_SECONDS)
    assert "KeyError: 'inner'" in got.__cause__.tb
    assert "direct cause" in got.__cause__.tb


class ReducesToNothingError(Exception):
    def __reduce__(self) -> Any:
        return None


class FailsToReduceError(Exception):
    def __reduce__(self) -> Any:
        raise RuntimeError("will not be reduced")


class OddReprError(ReducesToNothingError):
    def __repr__(self) -> str:
        raise RuntimeError("will not be shown")


@pytest.mark.parametrize("cls", [ReducesToNothingError, FailsToReduceError, OddReprError])
def test_an_exception_that_cannot_be_pickled(pool: deadpool.Deadpool, cls: type) -> None:
    got = pool.submit(raise_made, cls, "what it says").exception(LONG_SECONDS)
    assert type(got) is deadpool.ProcessError
    assert "pickling it failed" in str(got)
    assert cls.__name__ in str(got)
    assert "what it says" in str(got)
    assert "Traceback (most recent call last)" in str(got)


def test_an_exception_with_something_that_cannot_be_pickled(pool: deadpool.Deadpool) -> None:
    got = pool.submit(raise_made, Exception, threading.Lock).exception(LONG_SECONDS)
    assert type(got) is deadpool.ProcessError
    assert "cannot pickle" in str(got)


class FailsToSetStateError(Exception):
    def __init__(self, text: str) -> None:
        super().__init__(text)
        self.text = text

    def __setstate__(self, state: Any) -> None:
        raise ValueError("failed to unpickle")


def test_an_exception_that_cannot_be_unpickled(pool: deadpool.Deadpool) -> None:
    got = pool.submit(raise_made, FailsToSetStateError, "what it says").exception(LONG_SECONDS)
    assert type(got) is ValueError
    assert got.args == ("failed to unpickle",)
    assert "FailsToSetStateError: what it says" in got.__cause__.tb


def test_a_returned_exception_is_a_result(pool: deadpool.Deadpool) -> None:
    assert type(pool.submit(tasks.return_exception).result(LONG_SECONDS)) is ValueError


def test_text_that_cannot_be_encoded(pool: deadpool.Deadpool) -> None:
    got = pool.submit(raise_made, ValueError, "\udc80").exception(LONG_SECONDS)
    assert got.args == ("\udc80",)
    assert "\\udc80" in got.__cause__.tb


@pytest.mark.parametrize(
    "name",
    [
        "_exceptions.TimeoutError",
        "_exceptions.ProcessError",
        "_exceptions.MemoryLimitError",
        "_exceptions.SoftTimeoutError",
        "_exceptions.PoolClosed",
        "_exceptions.BacklogFull",
        "_worker_info.WorkerInfo",
        "_executor.Deadpool",
        "_future.Future",
        "_pool_errors.TimeLimitExceeded",
        "_pool_errors.SoftTimeLimitExceeded",
        "_pool_errors.WorkerLostError",
        "_pool_errors.Terminated",
        "_pool_errors.RestartFreqExceeded",
    ],
)
def test_pickles_that_name_former_homes_still_load(name: str) -> None:
    module, _, cls = name.rpartition(".")
    # As protocol 0 writes a class: its module and its name.
    loaded = pickle.loads(f"cdeadpool.{module}\n{cls}\n.".encode())
    home = deadpool.pool if module == "_pool_errors" else deadpool
    assert loaded is getattr(home, cls)
    assert pickle.loads(pickle.dumps(loaded)) is loaded


def test_an_exception_whose_constructor_refuses_its_arguments(pool: deadpool.Deadpool) -> None:
    error = pool.submit(tasks.raise_choosy).exception(20)
    assert type(error) is tasks.ChoosyError
    assert error.args == ("code 3",)


def test_exceptions_within_an_exception(pool: deadpool.Deadpool) -> None:
    error = pool.submit(tasks.raise_holding_choosy).exception(20)
    assert type(error) is RuntimeError
    text, choosy, [picky] = error.args
    assert (text, type(choosy), choosy.args) == ("holds", tasks.ChoosyError, ("code 3",))
    assert type(picky) is tasks.PickyError


@pytest.mark.skipif(sys.version_info < (3, 11), reason="groups are new in Python 3.11")
def test_exceptions_of_a_group(pool: deadpool.Deadpool) -> None:
    error = pool.submit(tasks.raise_group_of_choosy).exception(20)
    assert type(error) is builtins.ExceptionGroup
    choosy, inner = error.exceptions
    assert (type(choosy), choosy.args) == (tasks.ChoosyError, ("code 3",))
    assert type(inner.exceptions[0]) is tasks.PickyError
    assert error.args[1][0] is choosy


def test_a_result_that_asks_for_itself_is_refused(pool: deadpool.Deadpool) -> None:
    future = pool.submit(tasks.AsksForItself)
    tasks.AsksForItself.called = lambda: future.result(20)
    try:
        # It is read here, or by the completer.
        with pytest.raises(RuntimeError, match="this very future"):
            future.result(20)
    finally:
        tasks.AsksForItself.called = None
