"""What a :class:`deadpool.pool.Pool` is made of, and what outlives it while there is work.

Results and feeders know the engine and not the ``Pool``, so that a pool nobody refers to is
collected at once: what was submitted is finished then, and the workers go.
"""

from __future__ import annotations

import functools
import os
import threading
import weakref
from collections.abc import Callable, Iterable, Mapping
from multiprocessing import util as mp_util
from typing import Any, Protocol

from .. import _exit
from .._core import ShutdownMode
from .._exceptions import PoolClosed
from .._executor import Deadpool
from .._future import Future
from .callbacks import Teller
from .errors import failure
from .processes import Processes

_engines: weakref.WeakSet[Engine] = weakref.WeakSet()


class Feeder(Protocol):
    """What takes calls from an iterable while there is room."""

    def stop(self) -> None:
        """Take no more and end, since the pool was terminated."""

    def hurry(self) -> None:
        """Wait for no reader any more, since the pool was closed."""


class Engine:
    """An executor with what the interface of ``multiprocessing.Pool`` needs beside it.

    :param executor: Runs the tasks.
    :param processes: Its processes.
    :param teller: Makes calls to user code.
    :param release_all: Called at the end, to let go who is held back from submitting.
    """

    def __init__(
        self,
        executor: Deadpool,
        processes: Processes,
        teller: Teller,
        release_all: Callable[[], object],
    ) -> None:
        self.executor = executor
        self.teller = teller
        self.processes = processes
        self.terminated: bool = False
        self._release_all = release_all
        self._closing = False
        self._feeders: set[Feeder] = set()
        self._changed = threading.Condition(threading.RLock())
        self._pid = os.getpid()
        # The executor would have its tasks finished before threads are joined; this interface
        # works until the exit handlers run, and is terminated then.
        _exit.discard(executor._threads)
        _engines.add(self)

    def submit(
        self,
        func: Any,
        args: Iterable[Any],
        kwds: Any,
        *,
        timeout: float | None = None,
        soft_timeout: float | None = None,
    ) -> Future[Any]:
        """Submit a call; what is wrong with it is told by the future.

        :raises ValueError: If the pool is closed.
        """
        if not callable(func):
            return _failed(TypeError(f"{type(func).__name__!r} object is not callable"))
        if not isinstance(kwds, Mapping):
            kind = type(kwds).__name__
            return _failed(TypeError(f"argument after ** must be a mapping, not {kind}"))
        if not all(isinstance(name, str) for name in kwds):
            return _failed(TypeError("keywords must be strings"))
        limits: dict[str, Any] = {}
        if timeout is not None:
            limits["deadpool_timeout"] = timeout
        if soft_timeout is not None:
            limits["deadpool_soft_timeout"] = soft_timeout
        try:
            if any(name.startswith("deadpool_") for name in kwds):
                # These are the function's own.
                func, kwds = functools.partial(func, **kwds), {}
            return self.executor.submit(func, *args, **kwds, **limits)
        except PoolClosed:
            raise ValueError("Pool not running") from None
        except (TypeError, AttributeError) as error:
            return _failed(error)

    def failure(self, future: Future[Any], timeout: float | None) -> BaseException | None:
        """Return the exception of a future that has ended; None if it has a result."""
        return failure(future, timeout, self.processes.asked)

    def add_feeder(self, feeder: Feeder) -> None:
        """Have the pool wait for a feeder before it ends.

        :raises ValueError: If the pool is closed.
        """
        with self._changed:
            if self._closing:
                raise ValueError("Pool not running")
            self._feeders.add(feeder)

    def remove_feeder(self, feeder: Feeder) -> None:
        """Say that a feeder has ended."""
        with self._changed:
            self._feeders.discard(feeder)
            self._changed.notify_all()
            self._close_if_fed()

    def close(self) -> None:
        """Finish what was submitted, and end. Does not block."""
        if os.getpid() != self._pid:
            return
        with self._changed:
            self._closing = True
            feeders = list(self._feeders)
            self._close_if_fed()
        for feeder in feeders:
            feeder.hurry()
        self._release_all()

    def _close_if_fed(self) -> None:
        if self._closing and not self._feeders and not self.terminated:
            self.executor._close(ShutdownMode.DRAIN, False)

    def terminate(self) -> None:
        """Kill the workers, and fail what has not ended. Does not block."""
        with self._changed:
            self._closing = self.terminated = True
            feeders, self._feeders = list(self._feeders), set()
            self._changed.notify_all()
        for feeder in feeders:
            feeder.stop()
        self._release_all()
        self.executor.kill_workers()

    def join(self) -> None:
        """Wait until all has ended and all callbacks have returned, except in one of them. Blocks."""
        with self._changed:
            self._changed.wait_for(lambda: not self._feeders)
        self.executor.shutdown(wait=True)
        self.teller.close()


def _failed(error: Exception) -> Future[Any]:
    future: Future[Any] = Future()
    future.set_exception(error)
    return future


def _terminate_all() -> None:
    for engine in list(_engines):
        if engine._pid == os.getpid():
            engine.terminate()
            engine.join()


# As the standard library's pools are, and at the same time.
mp_util.Finalize(None, _terminate_all, exitpriority=15)
