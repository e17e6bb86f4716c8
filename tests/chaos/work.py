"""The kinds of tasks. Each notes first that it has begun, in one write to a log."""

from __future__ import annotations

import ctypes
import os
import random
import re
import signal
import sys
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import deadpool

# How long a task with a timeout hangs if nothing stops it: longer than a run may take.
FOR_EVER = 600


class Refusal(Exception):
    """What tasks raise on purpose.

    :param number: The task's.
    """


def begin(log: str, number: int) -> None:
    fd = os.open(log, os.O_WRONLY | os.O_APPEND)
    try:
        os.write(fd, b"%d %d\n" % (number, os.getpid()))
    finally:
        os.close(fd)


def value(log: str, number: int) -> int:
    begin(log, number)
    return number * number


def nap(log: str, number: int, seconds: float) -> int:
    begin(log, number)
    time.sleep(seconds)
    return number * number


def compute(log: str, number: int, seconds: float) -> int:
    begin(log, number)
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        pass
    return number * number


def allocate(log: str, number: int, size_bytes: int) -> int:
    begin(log, number)
    return len(bytearray(b"x") * size_bytes) - size_bytes + number * number


def large(log: str, number: int, size_bytes: int) -> bytes:
    begin(log, number)
    return number.to_bytes(4, "big") * (size_bytes // 4)


def measure(log: str, number: int, payload: bytes) -> int:
    begin(log, number)
    return len(payload)


def refuse(log: str, number: int) -> None:
    begin(log, number)
    raise Refusal(number)


def refuse_unpicklably(log: str, number: int) -> None:
    begin(log, number)
    raise Refusal(number, lambda: None)


def unpicklable(log: str, number: int) -> Any:
    begin(log, number)
    return lambda: number


class FailsHere:
    """Fails to be pickled."""

    def __reduce__(self) -> Any:
        raise Refusal("pickling")


class FailsThere:
    """Fails to be unpickled."""

    def __reduce__(self) -> Any:
        return _fail, ()


def _fail() -> Any:
    raise Refusal("unpickling")


def not_reached(log: str, number: int, _argument: Any) -> None:
    begin(log, number)


def return_failing(log: str, number: int) -> Any:
    begin(log, number)
    return FailsThere()


def exit_at_once(log: str, number: int, code: int) -> None:
    begin(log, number)
    os._exit(code)


def exit_politely(log: str, number: int) -> None:
    begin(log, number)
    sys.exit(number)


def signal_itself(log: str, number: int, which: int) -> None:
    begin(log, number)
    os.kill(os.getpid(), which)
    time.sleep(FOR_EVER)


def segfault(log: str, number: int) -> None:
    begin(log, number)
    ctypes.string_at(1)


def hang(log: str, number: int) -> None:
    begin(log, number)
    time.sleep(FOR_EVER)


def hang_in_c(log: str, number: int) -> None:
    begin(log, number)
    re.match(r"(a+)+$", "a" * 40 + "b")


def hang_stopped(log: str, number: int) -> None:
    begin(log, number)
    os.kill(os.getpid(), signal.SIGSTOP)
    time.sleep(FOR_EVER)


def hang_with_tree(log: str, number: int) -> None:
    begin(log, number)
    if os.fork() == 0:
        os.setsid()
        os.fork()
    time.sleep(FOR_EVER)


def return_softly(log: str, number: int) -> int:
    begin(log, number)
    try:
        time.sleep(FOR_EVER)
    except deadpool.SoftTimeoutError:
        return number * number
    raise AssertionError


def leave_daemon(log: str, number: int) -> int:
    begin(log, number)
    if os.fork() == 0:
        os.setsid()
        if os.fork() == 0:
            time.sleep(FOR_EVER)
        os._exit(0)
    os.wait()
    return number * number


def leave_thread(log: str, number: int) -> int:
    begin(log, number)
    threading.Thread(target=time.sleep, args=(0.2,), daemon=True).start()
    return number * number


def return_twice(log: str, number: int) -> int:
    begin(log, number)
    os.fork()
    return number * number


def die_at_first(log: str, number: int, marker: str) -> int:
    begin(log, number)
    try:
        os.close(os.open(marker, os.O_CREAT | os.O_EXCL))
    except FileExistsError:
        return number * number
    os.kill(os.getpid(), signal.SIGKILL)
    raise AssertionError


@dataclass(frozen=True)
class Order:
    """A task to submit, and how it must end if nothing gets in its way.

    :param end: The value, or the class of the exception.
    :param retries: How often it may be begun beyond once.
    :param has_deadline: Whether a timeout may end it instead.
    """

    kind: str
    function: Callable[..., Any]
    arguments: tuple[Any, ...]
    end: Any
    options: dict[str, Any] = field(default_factory=dict)

    @property
    def retries(self) -> int:
        return int(self.options.get("deadpool_retries", 0))

    @property
    def has_deadline(self) -> bool:
        return "deadpool_timeout" in self.options


def draw(rng: random.Random, number: int, log: str) -> Order:
    """Draw a task: mostly short and good ones, and any of the others."""
    square = number * number
    kind = rng.choices(list(_WEIGHTS), list(_WEIGHTS.values()))[0]
    died = deadpool.ProcessError
    late = {"deadpool_timeout": rng.uniform(0.02, 0.3)}
    size = rng.choice((100, 9_000, 70_000, 1_500_000))
    signals = (signal.SIGKILL, signal.SIGTERM, signal.SIGABRT, signal.SIGBUS)
    drawn: dict[str, tuple[Any, tuple[Any, ...], Any, dict[str, Any]]] = {
        "value": (value, (), square, {}),
        "nap": (nap, (rng.uniform(0.0005, 0.02),), square, {}),
        "long": (nap, (rng.uniform(0.1, 0.4),), square, {}),
        "compute": (compute, (rng.uniform(0.0005, 0.01),), square, {}),
        "allocate": (allocate, (20_000_000,), square, {}),
        "large": (large, (size,), number.to_bytes(4, "big") * (size // 4), {}),
        "measure": (measure, (bytes(size),), size, {}),
        "refuse": (refuse, (), Refusal, {}),
        "refuse_unpicklably": (refuse_unpicklably, (), died, {}),
        "unpicklable": (unpicklable, (), Exception, {}),
        "fails_here": (not_reached, (FailsHere(),), Refusal, {}),
        "fails_there": (not_reached, (FailsThere(),), Refusal, {}),
        "return_failing": (return_failing, (), Refusal, {}),
        "exit_at_once": (exit_at_once, (rng.choice((0, 1, 77)),), died, {}),
        "exit_politely": (exit_politely, (), SystemExit, {}),
        "signal_itself": (signal_itself, (rng.choice(signals),), died, {}),
        "segfault": (segfault, (), died, {}),
        "hang": (hang, (), deadpool.TimeoutError, late),
        "hang_in_c": (hang_in_c, (), deadpool.TimeoutError, late),
        "hang_stopped": (hang_stopped, (), deadpool.TimeoutError, late),
        "hang_with_tree": (hang_with_tree, (), deadpool.TimeoutError, late),
        "about_late": (nap, (0.02,), square, {"deadpool_timeout": rng.uniform(0.01, 0.03)}),
        "soft": (return_softly, (), square, {"deadpool_soft_timeout": rng.uniform(0.01, 0.1)}),
        "leave_daemon": (leave_daemon, (), square, {}),
        "leave_thread": (leave_thread, (), square, {}),
        "return_twice": (return_twice, (), square, {}),
        "die_at_first": (
            die_at_first,
            (f"{log}.{number}",),
            square,
            {"deadpool_retries": rng.randint(1, 3)},
        ),
    }
    function, more, end, options = drawn[kind]
    if rng.random() < 0.2:
        options = options | {"deadpool_priority": rng.randint(0, 3)}
    return Order(kind, function, (log, number, *more), end, options)


_WEIGHTS = {
    "value": 30,
    "nap": 20,
    "long": 2,
    "compute": 8,
    "allocate": 2,
    "large": 5,
    "measure": 5,
    "refuse": 3,
    "refuse_unpicklably": 1,
    "unpicklable": 1,
    "fails_here": 1,
    "fails_there": 1,
    "return_failing": 1,
    "exit_at_once": 1,
    "exit_politely": 1,
    "signal_itself": 1,
    "segfault": 0.5,
    "hang": 0.7,
    "hang_in_c": 0.4,
    "hang_stopped": 0.4,
    "hang_with_tree": 0.4,
    "about_late": 1,
    "soft": 1,
    "leave_daemon": 0.5,
    "leave_thread": 0.5,
    "return_twice": 0.5,
    "die_at_first": 1,
}
