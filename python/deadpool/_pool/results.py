"""The result objects of :mod:`deadpool.pool`.

A result that nobody is to be called for is settled by whoever waits for it: no other thread comes
in between. One with callbacks is settled by the thread that calls them, and counts as ready when
they have returned, as in the standard library.
"""

from __future__ import annotations

import concurrent.futures
import functools
import multiprocessing
import multiprocessing.pool
import signal
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import CancelledError
from typing import Any, TypeVar

from .._checks import check_signal
from .._future import Future
from .callbacks import Callbacks, call
from .engine import Engine
from .errors import Terminated, TimeLimitExceeded, terminated
from .slots import Slots

T = TypeVar("T")


class ApplyResult(multiprocessing.pool.ApplyResult[T]):
    """The result of ``apply_async``.

    :param engine: The pool's.
    :param futures: What it waits for.
    :param callbacks: Who is told.
    :param timeout: The hard timeout in force, in seconds.
    :param soft_timeout: The soft one.
    :param correlation_id: The caller's name for the task, kept and not used.
    """

    __module__ = "deadpool.pool"

    def __init__(
        self,
        engine: Engine,
        futures: Sequence[Future[Any]],
        callbacks: Callbacks,
        *,
        timeout: float | None = None,
        soft_timeout: float | None = None,
        correlation_id: Any = None,
    ) -> None:
        self.correlation_id = correlation_id
        # Until it is settled: results may be kept for longer than their pool.
        self._engine: Engine | None = engine
        self._futures = list(futures)
        # Those that may not have ended; the last was submitted last, and is looked at first.
        self._open = list(futures)
        self._lock = threading.Lock()
        self._outcome: tuple[bool, Any] | None = None
        self._terminated: int | None = None
        self._timeout = timeout
        self._soft_timeout = soft_timeout
        self._callbacks = callbacks
        # Set when all callbacks have returned; None if there are none.
        self._told: threading.Event | None = None
        self._teller: int | None = None
        self._was_accepted = False
        self._pending = 0
        if callbacks.any():
            self._told = threading.Event()
            self._watch()

    def _watch(self) -> None:
        self._pending = len(self._futures)
        if not self._futures:
            self._post(self._tell)
        for future in list(self._futures):
            if self._callbacks.accepted or self._callbacks.timeout_set:
                future.add_pid_callback(self._accepted_by)
            if self._callbacks.timed_out and self._soft_timeout is not None:
                future.add_soft_timeout_callback(self._soft_timed_out)
            future.add_done_callback(self._one_ended)

    def get(self, timeout: float | None = None) -> T:
        """Return the result, or raise the task's exception. Blocks for at most ``timeout`` seconds.

        :raises multiprocessing.TimeoutError: If it does not come in time.
        :raises WorkerLostError: If the worker died while it ran the task.
        """
        if not self._wait(timeout):
            raise multiprocessing.TimeoutError
        success, value = self._settle()
        if success:
            result: T = value
            return result
        raise value

    def wait(self, timeout: float | None = None) -> None:
        """Wait until the result is there. Blocks for at most ``timeout`` seconds."""
        self._wait(timeout)

    def ready(self) -> bool:
        """Whether the task has ended and its callbacks have returned."""
        if self._told is not None:
            return self._told.is_set()
        return self._all_ended()

    def successful(self) -> bool:
        """Whether it ended without an exception.

        :raises ValueError: If it has not ended.
        """
        if not self.ready():
            raise ValueError(f"{self!r} not ready")
        return self._settle()[0]

    def accepted(self) -> bool:
        """Whether workers have begun all of it."""
        return all(future.pid is not None for future in self._kept())

    def worker_pids(self) -> list[int]:
        """Return the processes that run or ran it."""
        pids = [future.pid for future in self._kept()]
        return [pid for pid in pids if pid is not None]

    def terminate(self, signum: int | None = None) -> None:
        """End the task: if it runs, by sending a signal to its worker's process tree.

        :param signum: The signal; SIGTERM by default.
        :raises ValueError: If there is no such signal.
        """
        self._terminated = check_signal("signum", signal.SIGTERM if signum is None else signum)
        for future in self._kept():
            future.cancel_and_kill_if_running(self._terminated)

    def discard(self) -> None:
        """Forget it: nobody is told of its end."""
        self._callbacks = Callbacks()

    def __repr__(self) -> str:
        state = "ready" if self.ready() else "pending"
        return f"<{type(self).__module__}.{type(self).__qualname__} {state} at {id(self):#x}>"

    def _kept(self) -> list[Future[Any]]:
        return self._futures

    def _wait(self, timeout: float | None) -> bool:
        if self._told is None:
            return self._wait_for_futures(timeout)
        if self._teller == threading.get_ident():
            # In one of its own callbacks, which come when the outcome is known.
            return True
        engine = self._engine
        if timeout is None and engine is not None and engine.teller.is_current():
            raise RuntimeError("a callback can't wait for a result that has callbacks of its own")
        return self._told.wait(timeout)

    def _wait_for_futures(self, timeout: float | None) -> bool:
        deadline = None if timeout is None else time.monotonic() + timeout
        while not self._all_ended():
            # From the last to the first, so that most need no waking up for.
            with self._lock:
                future = self._open[-1] if self._open else None
            if future is None:
                break
            left = None if deadline is None else max(deadline - time.monotonic(), 0.0)
            if not _has_ended(future, left):
                return False
        return True

    def _all_ended(self) -> bool:
        with self._lock:
            while self._open and self._open[-1].done():
                self._open.pop()
            return not self._open

    def _settle(self) -> tuple[bool, Any]:
        """Return the outcome; all futures have ended."""
        with self._lock:
            if self._outcome is None:
                self._outcome = self._gather()
                self._open.clear()
                self._engine = None
            return self._outcome

    def _gather(self) -> tuple[bool, Any]:
        (future,) = self._futures
        error = self._failure(future)
        return (False, error) if error is not None else (True, future.result(0))

    def _failure(self, future: Future[Any]) -> BaseException | None:
        assert self._engine is not None
        error = self._engine.failure(future, self._timeout)
        if self._terminated is not None and isinstance(error, Terminated):
            return terminated(self._terminated)
        return error

    def _one_ended(self, _future: Future[Any]) -> None:
        with self._lock:
            self._pending -= 1
            is_last = self._pending == 0
        if is_last:
            self._post(self._tell)

    def _post(self, function: Callable[..., object], *args: Any) -> None:
        if self._engine is not None:
            self._engine.teller.post(function, *args)

    def _tell(self) -> None:
        assert self._told is not None
        self._teller = threading.get_ident()
        callbacks = self._callbacks
        try:
            success, value = self._settle()
            call(callbacks.timeout_cancelled, self)
            callbacks.tell_end(*((None, value) if success else (value, None)))
            if isinstance(value, TimeLimitExceeded) and value.pid is not None:
                call(callbacks.timed_out, soft=False, timeout=self._timeout)
        finally:
            self._teller = None
            self._callbacks = Callbacks()
            self._told.set()

    def _accepted_by(self, future: Future[Any]) -> None:
        self._post(self._tell_accepted, future.pid, time.monotonic())

    def _tell_accepted(self, pid: int, at: float) -> None:
        if not self._was_accepted:
            self._was_accepted = True
            call(self._callbacks.timeout_set, self, self._soft_timeout, self._timeout)
        call(self._callbacks.accepted, pid, at)

    def _soft_timed_out(self, _future: Future[Any]) -> None:
        self._post(self._tell_soft)

    def _tell_soft(self) -> None:
        call(self._callbacks.timed_out, soft=True, timeout=self._soft_timeout)


AsyncResult = ApplyResult


class MapResult(ApplyResult[list[T]], multiprocessing.pool.MapResult[T]):
    """The result of ``map_async`` and ``starmap_async``.

    :param error: What the iterable raised, if it did.
    """

    __module__ = "deadpool.pool"

    def __init__(self, *args: Any, error: BaseException | None = None, **kwargs: Any) -> None:
        self._error = error
        self._pids: list[int] = []
        super().__init__(*args, **kwargs)

    def accepted(self) -> bool:
        """Whether workers have begun all of it."""
        return self._outcome is not None or super().accepted()

    def worker_pids(self) -> list[int]:
        """Return the processes that run or ran it, for each chunk."""
        return self._pids or super().worker_pids()

    def _gather(self) -> tuple[bool, Any]:
        futures, self._futures = self._futures, []
        self._pids = [pid for pid in (future.pid for future in futures) if pid is not None]
        failures = (self._failure(future) for future in futures)
        error = next((error for error in failures if error is not None), self._error)
        if error is not None:
            return False, error
        values: list[Any] = []
        for future in futures:
            values += future.result(0)
        return True, values


def release_after(slots: Slots, future: Future[Any]) -> None:
    """Give the place of a task back when it ends."""
    future.add_done_callback(functools.partial(_release, slots))


def _release(slots: Slots, _future: Future[Any]) -> None:
    slots.release()


def _has_ended(future: Future[Any], timeout: float | None) -> bool:
    """Wait for a future. The task's own exception is returned and not raised, and so no timeout."""
    try:
        future.exception(timeout)
    except CancelledError:
        return True
    except concurrent.futures.TimeoutError:
        return future.done()
    return True
