"""What :mod:`deadpool.pool` runs inside its workers."""

from __future__ import annotations

import itertools
import multiprocessing
from collections.abc import Callable, Iterable
from multiprocessing.pool import MaybeEncodingError  # type: ignore[attr-defined]
from typing import Any

from .. import _failures
from .._child import worker as child_worker
from .errors import SoftTimeLimitExceeded


class OverChunk:
    """Calls a function with each item of a chunk; reports of a death name that function.

    :param func: The function.
    """

    def __init__(self, func: Callable[..., Any]) -> None:
        self.func = func
        named = func if hasattr(func, "__qualname__") else type(func)
        self.__qualname__ = named.__qualname__
        self.__module__ = getattr(named, "__module__", None) or "builtins"

    def __call__(self, chunk: Iterable[Any]) -> list[Any]:
        return list(map(self.func, chunk))

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), (self.func,)


class OverStarredChunk(OverChunk):
    """Calls a function with the items of each item of a chunk."""

    def __call__(self, chunk: Iterable[Any]) -> list[Any]:
        """Make the calls."""
        return list(itertools.starmap(self.func, chunk))


def start(
    start_method: str, initializer: Callable[..., object] | None, initargs: tuple[Any, ...]
) -> None:
    """Make this worker one of a ``Pool``, and run the user's initializer.

    :param start_method: How the processes of the pool are started.
    """
    child_worker.soft_timeout_error = SoftTimeLimitExceeded
    _failures.unpicklable_error = MaybeEncodingError
    _rename(start_method)
    if initializer is not None:
        initializer(*initargs)


def _rename(start_method: str) -> None:
    """Give the process the name and number that one of the standard library's pool would have.

    Programs take both apart, to have a file or a seed for each worker.
    """
    process = multiprocessing.current_process()
    number = process.name.rpartition("-")[2]
    if number.isdecimal():
        prefix = {"fork": "Fork", "forkserver": "ForkServer", "spawn": "Spawn"}.get(
            start_method, ""
        )
        process.name = f"{prefix}PoolWorker-{number}"
        process._identity = (int(number),)
