"""Calling what users of :mod:`deadpool.pool` want to be called.

Callbacks have a thread of their own, so that they may wait for whatever the pool does meanwhile. It
is there while there is something to call, and a little longer.
"""

from __future__ import annotations

import functools
import logging
import threading
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

_logger = logging.getLogger("deadpool.pool")


def call(function: Callable[..., object] | None, *args: Any, **kwargs: Any) -> None:
    """Call a callback, if there is one, and log what it raises: nobody is there to catch it."""
    if function is None:
        return
    try:
        function(*args, **kwargs)
    except BaseException:
        # A SystemExit would end the thread that calls them all, and nobody would be told any more.
        _logger.exception("the callback %r failed", function)


class Teller:
    """Makes calls in a thread of its own, one after the other."""

    # How long the thread waits for another call before it ends.
    _LINGER_SECONDS = 1.0

    def __init__(self) -> None:
        self._calls: deque[Callable[[], object]] = deque()
        self._changed = threading.Condition()
        self._thread: threading.Thread | None = None
        self._is_closed = False

    def post(self, function: Callable[..., object], *args: Any) -> None:
        """Have ``function(*args)`` called soon. Does not block."""
        with self._changed:
            self._calls.append(functools.partial(function, *args))
            if self._thread is not None:
                self._changed.notify_all()
                return
            thread = threading.Thread(target=self._run, name="deadpool-callbacks", daemon=True)
            self._thread = thread
        try:
            thread.start()
        except RuntimeError:
            # The interpreter is about to exit and gives out no threads any more.
            self._run()

    def _run(self) -> None:
        while (function := self._next()) is not None:
            call(function)
            del function

    def _next(self) -> Callable[[], object] | None:
        with self._changed:
            self._changed.wait_for(lambda: self._calls or self._is_closed, self._LINGER_SECONDS)
            if self._calls:
                return self._calls.popleft()
            self._thread = None
            return None

    def is_current(self) -> bool:
        """Whether this is called by one of the calls."""
        return threading.current_thread() is self._thread

    def close(self) -> None:
        """Wait until all calls have returned, except in one of them. Blocks."""
        with self._changed:
            self._is_closed = True
            self._changed.notify_all()
            thread = self._thread
        if thread is not None and thread is not threading.current_thread():
            thread.join()


@dataclass(frozen=True)
class Callbacks:
    """Who is told of a task, and of what.

    :param done: With the result.
    :param failed: With the exception, or what ``wrap`` makes of it.
    :param accepted: With pid and time, when the task begins.
    :param timed_out: With ``soft`` and ``timeout``, when it ran for so long.
    :param timeout_set: With the result object and both limits, when they begin to count.
    :param timeout_cancelled: With the result object, when they no longer do.
    :param wrap: What ``failed`` gets instead of the exception is made by this.
    """

    done: Callable[[Any], object] | None = None
    failed: Callable[[Any], object] | None = None
    accepted: Callable[[int, float], object] | None = None
    timed_out: Callable[..., object] | None = None
    timeout_set: Callable[..., object] | None = None
    timeout_cancelled: Callable[..., object] | None = None
    wrap: Callable[[BaseException], Any] | None = None

    def any(self) -> bool:
        """Whether anybody is to be told of anything."""
        told = (self.done, self.failed, self.accepted, self.timed_out)
        return any(told) or any((self.timeout_set, self.timeout_cancelled))

    def tell_end(self, error: BaseException | None, value: Any) -> None:
        """Tell how the task ended."""
        if error is None:
            call(self.done, value)
        elif self.failed is not None:
            call(self.failed, error if self.wrap is None else self.wrap(error))
