"""The exceptions of the package.

Those that tell of a dead worker hold what is known as attributes. Their text is a sentence, followed
by the Python stack of the task where one could be had.
"""

from __future__ import annotations

import functools
import multiprocessing
import queue
import signal as _signal
import sys

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

if sys.version_info >= (3, 11):
    from builtins import TimeoutError as _StandardTimeoutError
else:
    from concurrent.futures import TimeoutError as _StandardTimeoutError

__all__ = [
    "BacklogFull",
    "MemoryLimitError",
    "PoolClosed",
    "ProcessError",
    "SoftTimeoutError",
    "TimeoutError",
]


class _Facts(Exception):
    """What is known of the worker that ran a task; every attribute may be None.

    :param args: The message.
    :param pid: Process id of the worker.
    :param exitcode: Its exit code, as :mod:`multiprocessing` has it: minus the signal's number if a
        signal killed it.
    :param signal: The signal that killed it. Derived from ``exitcode`` by default.
    :param task: Module and qualified name of the task's function.
    :param rss_bytes: Resident memory of the worker when it was last seen; the most that it had, if it
        died by itself.
    :param oom_killed: Whether the kernel killed it for want of memory. None where that can't be
        known.
    :param stack: The Python stack of its threads when it was stopped or died.
    """

    def __init__(
        self,
        *args: object,
        pid: int | None = None,
        exitcode: int | None = None,
        signal: int | None = None,
        task: str | None = None,
        rss_bytes: int | None = None,
        oom_killed: bool | None = None,
        stack: str | None = None,
    ) -> None:
        super().__init__(*args)
        if signal is None and exitcode is not None and exitcode < 0:
            signal = -exitcode
        self.pid = pid
        self.exitcode = exitcode
        self.signal: int | None = _named_signal(signal)
        self.task = task
        self.rss_bytes = rss_bytes
        self.oom_killed = oom_killed
        self.stack = stack

    def __reduce__(self) -> tuple[Any, ...]:
        # The attributes are keyword only, so they travel as the state.
        return type(self), self.args, self.__dict__


# When a worker dies its memory has just gone through the processor's caches: what is left out then
# counts ten times.
@functools.cache
def _named_signal(number: int | None) -> int | None:
    try:
        return None if number is None else _signal.Signals(number)
    except ValueError:
        # Real-time signals have no names.
        return number


class ProcessError(_Facts, multiprocessing.ProcessError):
    """The worker died while it ran the task, or the task could not be run or its end not be told."""

    __module__ = "deadpool"


class MemoryLimitError(ProcessError):
    """The task's process tree used more memory than it was allowed to, and was killed."""

    __module__ = "deadpool"


class TimeoutError(_Facts, _StandardTimeoutError):
    """The task ran longer than it was allowed to, and was killed.

    Waiting for a future with a timeout raises :class:`concurrent.futures.TimeoutError`, of which
    this is a subclass: the two can be told apart.
    """

    __module__ = "deadpool"


class SoftTimeoutError(Exception):
    """Raised inside a task that runs longer than its soft timeout.

    Not a :class:`TimeoutError`, nor one of :mod:`concurrent.futures`: code in the task that expects
    timeouts of its own, of sockets say, must not catch it by mistake, and a caller can tell a task
    that stopped by itself from one that was killed.
    """

    __module__ = "deadpool"

    def __init__(self, *args: object) -> None:
        super().__init__(*(args or ("the soft timeout of the task has passed",)))


class PoolClosed(RuntimeError):
    """A task was submitted to a pool that was shut down."""

    __module__ = "deadpool"


class BacklogFull(queue.Full):
    """The backlog had no room for another task, and waiting for it was not wanted.

    A :class:`queue.Full`, as :meth:`queue.Queue.put` raises.
    """

    __module__ = "deadpool"
