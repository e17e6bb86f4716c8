"""A task that was given to the pool, and who is told what of it."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable
from concurrent.futures import CancelledError
from dataclasses import dataclass
from typing import Any

from .._exceptions import MemoryLimitError, ProcessError, TimeoutError
from .._future import Future
from . import errors, signals
from .callbacks import Calls, call, request_of
from .worker import Raised

# What Celery writes down for a task that it ends is one message to the broker and one result.
_ANNOUNCEMENT_SECONDS = 5.0


@dataclass(slots=True)
class Callbacks:
    """What Celery wants to have called.

    :param done: With what the task's tracer has returned.
    :param failed: With the ``ExceptionInfo`` of what it could not deal with.
    :param accepted: With pid and time, when the task has begun.
    :param timed_out: With ``soft`` and ``timeout``, when it ran for so long.
    """

    done: Callable[[Any], object] | None
    failed: Callable[[Any], object] | None
    accepted: Callable[[int, float], object] | None
    timed_out: Callable[..., object] | None


class Job:
    """A task that was given to the pool.

    Its callbacks are called in the order accepted, soft limit, end. What is not public here runs in
    the executor's thread if it is named after what happened, and else by ``calls``.

    :param callbacks: Who is told.
    :param timeout: The hard limit in seconds; None means none.
    :param soft_timeout: The soft one.
    :param correlation_id: The task's id.
    :param calls: What makes the calls.
    :param on_end: Called first when it ends, and also if nobody else is told.
    :param has_slot: Whether its end makes room for another.
    """

    __slots__ = (
        "__weakref__",
        "_announced",
        "_callbacks",
        "_calls",
        "_cancel",
        "_future",
        "_is_discarded",
        "_on_end",
        "_terminated",
        "_was_accepted",
        "correlation_id",
        "has_slot",
        "soft_timeout",
        "timeout",
    )

    def __init__(
        self,
        callbacks: Callbacks,
        *,
        timeout: float | None,
        soft_timeout: float | None,
        correlation_id: str | None,
        calls: Calls,
        on_end: Callable[[Job], object],
        has_slot: bool,
    ) -> None:
        self.correlation_id: str | None = correlation_id
        self.has_slot: bool = has_slot
        self._callbacks = callbacks
        self.timeout: float | None = timeout
        self.soft_timeout: float | None = soft_timeout
        self._calls = calls
        self._on_end = on_end
        self._future: Future[Any] | None = None
        self._terminated: int | None = None
        self._announced: threading.Event | None = None
        self._was_accepted = False
        self._is_discarded = False
        self._cancel: Callable[[Callable[..., object] | None], object] | None = None

    def watch(self, future: Future[Any]) -> None:
        """Tell of what becomes of a future."""
        self._future = future
        if self.soft_timeout is not None:
            future.add_soft_timeout_callback(self._soft_timeout_passed)
        future.add_pid_callback(self._started)
        future.add_done_callback(self._ended)

    def refuse(self, error: Exception) -> None:
        """Tell of a task that can't be submitted: it is accepted, so that it does not come again, and fails."""
        self._calls.post(self._tell_refusal, error)

    @property
    def pid(self) -> int | None:
        """The process that runs or ran it; None before."""
        future = self._future
        return None if future is None else future.pid

    def has_begun(self) -> bool:
        """Whether it was begun, whether that was told or not."""
        return self._was_accepted or self.pid is not None

    def is_running(self) -> bool:
        """Whether it was begun and has not ended."""
        future = self._future
        return future is not None and future.pid is not None and not future._has_outcome()

    def terminate(self, signum: int) -> None:
        """End it, now or before it begins: ``failed`` is told ``Terminated``. Does not block.

        The process that runs it and all that it started get the signal, and SIGKILL if they
        outlive it. If it has ended meanwhile it stays as it ended.

        Nothing is done for SIGUSR1, which has been sent to the process already, and ends nothing.
        """
        if signum != signals.SOFT_LIMIT:
            self._kill(signum)
        if self._announced is not None:
            self._announced.set()

    def terminate_by_pid(self, signum: int) -> None:
        """End it likewise. What Celery has to say of it is said before ``failed`` is told.

        Its requests end their tasks so, write down whether that was a revocation, and call `terminate`.
        Told in another thread before that, they would take it for a revocation in any case.
        """
        is_request = request_of(self._callbacks.failed) is not None
        if is_request and self._announced is None and not self._calls.is_current():
            self._announced = threading.Event()
        self._kill(signum)

    def _kill(self, signum: int) -> None:
        future = self._future
        if future is not None:
            self._terminated = signum
            future.cancel_and_kill_if_running(signum)

    def discard(self) -> None:
        """Forget it: nobody is told of anything any more, and it does not begin. Does not block."""
        self._is_discarded = True
        future = self._future
        if future is not None:
            future.cancel()

    def cancel_when_accepted(
        self, cancel: Callable[[Callable[..., object] | None], object]
    ) -> None:
        """Call ``cancel`` with Celery's callback once that knows that the task has begun.

        Not if it has ended. To be called by what makes the calls.
        """
        self._cancel = cancel
        if self._was_accepted:
            self._cancel_if_running()

    def _cancel_if_running(self) -> None:
        if self._cancel is not None and self.is_running():
            self._cancel(self._callbacks.accepted)

    # By the executor's thread.

    def _started(self, future: Future[Any]) -> None:
        self._calls.post(self._tell_accepted, future.pid, time.monotonic())

    def _soft_timeout_passed(self, _future: Future[Any]) -> None:
        self._calls.post(self._tell_soft_timeout)

    def _ended(self, _future: Future[Any]) -> None:
        self._calls.post(self._tell_end)

    # By what makes the calls.

    def _tell_accepted(self, pid: int, at: float) -> None:
        if not (self._is_discarded or self._was_accepted):
            self._was_accepted = True
            call(self._calls, self._callbacks.accepted, pid, at)
            if self._cancel is not None:
                self._cancel_if_running()

    def _tell_soft_timeout(self) -> None:
        if not self._is_discarded:
            call(self._calls, self._callbacks.timed_out, soft=True, timeout=self.soft_timeout)

    def _tell_end(self) -> None:
        future, self._future = self._future, None
        assert future is not None
        try:
            self._on_end(self)
        finally:
            if not self._is_discarded:
                if future.pid is not None:
                    self._tell_accepted(future.pid, time.monotonic())
                self._tell_outcome(future)

    def _tell_refusal(self, error: Exception) -> None:
        try:
            self._on_end(self)
        finally:
            if not self._is_discarded:
                self._tell_accepted(os.getpid(), time.monotonic())
                self._tell_failure(errors.exception_info(error))

    def _tell_outcome(self, future: Future[Any]) -> None:
        try:
            error = future.exception(0)
        except CancelledError:
            # Otherwise a cold shutdown came before it began, and the broker delivers it again.
            if self._announced is not None:
                self._announced.wait(_ANNOUNCEMENT_SECONDS)
            if self._terminated is not None:
                self._tell_failure(errors.terminated(self._terminated))
            return
        if error is None:
            value = future.result(0)
            if isinstance(value, Raised):
                call(self._calls, self._callbacks.failed, value.einfo)
            else:
                call(self._calls, self._callbacks.done, value)
        elif type(error) is TimeoutError:
            self._tell_hard_timeout(error)
        elif type(error) is ProcessError and error.pid is not None and error.__cause__ is None:
            self._tell_failure(errors.worker_lost(error, self.correlation_id))
        elif type(error) is MemoryLimitError:
            self._tell_failure(errors.memory_limit_exceeded(error))
        else:
            self._tell_failure(errors.exception_info(error))

    def _tell_failure(self, einfo: Any) -> None:
        call(self._calls, self._callbacks.failed, einfo)

    def _tell_hard_timeout(self, error: TimeoutError) -> None:
        einfo = errors.time_limit_exceeded(error, self.timeout)
        self._tell_failure(einfo)
        timed_out = self._callbacks.timed_out
        if timed_out is not None:
            tell = errors.tell_hard_limit
            call(self._calls, tell, timed_out, self.timeout, einfo)
