"""The exceptions of :mod:`deadpool.pool`, and the core's exceptions turned into them.

Where billiard is installed, each is also its class of the same name, so that code written for it
catches ours. Without it they stand alone.
"""

from __future__ import annotations

import multiprocessing.pool
import signal as _signal
import traceback
from concurrent.futures import CancelledError
from concurrent.futures.process import _RemoteTraceback as RemoteTraceback
from typing import TYPE_CHECKING, Any

from .._exceptions import (
    ProcessError,
    SoftTimeoutError,
    TimeoutError,
)
from .._future import Future

try:
    from billiard import exceptions as _namesakes
except ImportError:
    _namesakes = None


def _namesake(name: str) -> Any:
    # Exception is the base of all of them anyway.
    return getattr(_namesakes, name, Exception)


if TYPE_CHECKING:
    # Exception is a base of each anyway, and billiard has no types.
    class _BilliardsSoftTimeLimitExceeded(Exception):
        """That of billiard, where it is installed."""

    class _BilliardsTimeLimitExceeded(Exception):
        """That of billiard, where it is installed."""

    class _BilliardsWorkerLostError(Exception):
        """That of billiard, where it is installed."""

    class _BilliardsTerminated(Exception):
        """That of billiard, where it is installed."""

    class _BilliardsRestartFreqExceeded(Exception):
        """That of billiard, where it is installed."""

else:
    _BilliardsSoftTimeLimitExceeded = _namesake("SoftTimeLimitExceeded")
    _BilliardsTimeLimitExceeded = _namesake("TimeLimitExceeded")
    _BilliardsWorkerLostError = _namesake("WorkerLostError")
    _BilliardsTerminated = _namesake("Terminated")
    _BilliardsRestartFreqExceeded = _namesake("RestartFreqExceeded")


class _Told(Exception):
    """One whose arguments are billiard's, and whose text is the core's sentence."""

    sentence: str | None = None

    def __str__(self) -> str:
        return self.sentence or super().__str__()


class SoftTimeLimitExceeded(SoftTimeoutError, _BilliardsSoftTimeLimitExceeded):
    """Raised inside a task that runs longer than its soft time limit."""

    __module__ = "deadpool.pool"


class TimeLimitExceeded(_Told, TimeoutError, _BilliardsTimeLimitExceeded):
    """The task ran longer than its time limit, and was killed. The argument is the limit."""

    __module__ = "deadpool.pool"


class WorkerLostError(ProcessError, _BilliardsWorkerLostError):
    """The worker died while it ran the task."""

    __module__ = "deadpool.pool"


class Terminated(_Told, ProcessError, _BilliardsTerminated):
    """The task was ended on request. The argument is the signal, if one was asked for."""

    __module__ = "deadpool.pool"


class RestartFreqExceeded(ProcessError, _BilliardsRestartFreqExceeded):
    """No worker could be started, again and again."""

    __module__ = "deadpool.pool"


class Encloser:
    """Builds what billiard hands to an ``error_callback``: an object with the exception in it.

    :param exception: The exception.
    """

    def __init__(self, exception: BaseException) -> None:
        self.type = type(exception)
        self.exception = exception
        lines = traceback.format_exception(type(exception), exception, exception.__traceback__)
        self.traceback = "".join(lines)
        self.internal = False

    def __str__(self) -> str:
        return self.traceback

    def __repr__(self) -> str:
        return f"<ExceptionInfo: {self.exception!r}>"

    @property
    def exc_info(self) -> tuple[type[BaseException], BaseException, Any]:
        """What :func:`sys.exc_info` would say."""
        return self.type, self.exception, self.exception.__traceback__


def exception_info(exception: BaseException) -> Any:
    """Return billiard's ``ExceptionInfo`` of an exception, or one like it where billiard is absent."""
    if _namesakes is None:
        return Encloser(exception)
    from billiard.einfo import ExceptionInfo

    try:
        raise exception  # noqa: TRY301
    except BaseException:
        # It wants a traceback, which only raising makes.
        info = ExceptionInfo()
    # What it keeps is wrapped for a journey that is behind this exception.
    info.exception = exception
    return info


def terminated(signal: int | None = None, error: ProcessError | None = None) -> Terminated:
    """Return the exception for a task that was ended on request.

    :param signal: The signal that was asked for; None if all tasks of the pool were ended.
    :param error: What the core says of the worker's death.
    """
    made = Terminated(*(() if signal is None else (int(signal),)), **_facts(error))
    if signal is None:
        made.sentence = "the pool was terminated before the task had ended"
    else:
        made.sentence = f"the task was terminated with {_signal_name(signal)}"
    return made


def failure(
    future: Future[Any], timeout: float | None, asked: dict[int, int]
) -> BaseException | None:
    """Return the exception of a future that has ended, as this interface has it; None if it has a result.

    :param timeout: The hard timeout that the task had.
    :param asked: The signals that were sent to workers on request, by process id.
    """
    try:
        error = future.exception(0)
    except CancelledError:
        return terminated()
    if error is None:
        return None
    if isinstance(error.__cause__, RemoteTraceback):
        # The task's own. Its text is where this interface's users look for it.
        error.__cause__ = multiprocessing.pool.RemoteTraceback(  # type: ignore[attr-defined]
            error.__cause__.tb
        )
    elif type(error) is TimeoutError:
        late = TimeLimitExceeded(timeout, **_facts(error))
        late.sentence = str(error)
        return late
    elif type(error) is ProcessError and error.pid is not None and error.__cause__ is None:
        if error.pid in asked:
            return terminated(asked[error.pid], error)
        return WorkerLostError(*error.args, **_facts(error))
    return error


def _facts(error: Any) -> dict[str, Any]:
    names = ("pid", "exitcode", "task", "rss_bytes", "oom_killed", "stack")
    return {name: getattr(error, name, None) for name in names}


def _signal_name(number: int) -> str:
    try:
        return _signal.Signals(number).name
    except ValueError:
        return f"signal {number}"
