"""Functions that the workers of ``deadpool.pool.Pool`` run, beside those in ``tasks``."""

from __future__ import annotations

import multiprocessing
import os
import signal
import time
from pathlib import Path
from typing import Any

import tasks

from deadpool.pool import SoftTimeLimitExceeded


def square(x: int) -> int:
    return x * x


def add_with(a: int, b: int = 0, *, deadpool_c: int = 0) -> int:
    return a + b + deadpool_c


def square_or_die(x: int) -> int:
    if x == 3:
        os.kill(os.getpid(), signal.SIGKILL)
    return x * x


def square_or_raise(x: int) -> int:
    if x == 3:
        raise KeyError("three", x)
    return x * x


def sleep_and_return(seconds: float, value: Any) -> Any:
    time.sleep(seconds)
    return value


def process_facts(_: Any = None) -> tuple[str, tuple[int, ...], bool]:
    process = multiprocessing.current_process()
    return process.name, process._identity, process.daemon  # type: ignore[attr-defined]


def catch_soft_limit(begun: Path) -> str:
    tasks.touch(begun)
    try:
        time.sleep(30)
    except SoftTimeLimitExceeded as error:
        return f"cleaned up after {type(error).__name__}"
    return "not reached"


def catch_soft_limit_of_billiard() -> str:
    from billiard.exceptions import SoftTimeLimitExceeded

    try:
        time.sleep(30)
    except SoftTimeLimitExceeded:
        return "caught"
    return "not reached"


def raise_unpicklable_exception() -> None:
    raise ValueError(lambda: 1)


def hold_begun(directory: Path, value: Any) -> Any:
    """Say that the task has begun, and wait to be released."""
    tasks.touch(directory / f"begun-{value}")
    tasks.await_file(directory / "release")
    return value


def fail_to_initialize() -> None:
    raise OSError("no database")


def nested_pool_fails() -> str:
    from deadpool.pool import Pool

    try:
        Pool(1)
    except AssertionError as error:
        return str(error)
    return "not reached"
