"""The future of a task."""

from __future__ import annotations

import concurrent.futures
import logging
from collections.abc import Callable

from ._core import FutureBase

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    _Future = concurrent.futures.Future[Any]
else:
    _Future = concurrent.futures.Future

__all__ = ["Future"]

_logger = logging.getLogger("deadpool")


class Future(FutureBase, _Future):
    """The result of a task that may not have ended yet.

    A :class:`concurrent.futures.Future` with three differences: a running task can be cancelled,
    which gives up on its result; the process that runs the task is known; and it can be killed.
    """

    __slots__ = ()

    def add_soft_timeout_callback(self, fn: Callable[[Future], object]) -> None:
        """Call ``fn(future)`` when the task's soft timeout has passed, or now if it has.

        Called when :class:`SoftTimeoutError` is about to be raised in the task, by the thread that
        calls done-callbacks. What it raises is logged.
        """
        callbacks = self.__dict__.setdefault("_soft_timeout_callbacks", [])
        callbacks.append(fn)
        if self.__dict__.get("_soft_timeout_passed"):
            self._soft_timed_out()

    def _soft_timed_out(self) -> None:
        # The completer calls it. Each callback is taken out once, whoever comes first.
        self.__dict__["_soft_timeout_passed"] = True
        callbacks = self.__dict__.get("_soft_timeout_callbacks", [])
        while callbacks:
            callback = callbacks.pop(0)
            try:
                callback(self)
            except Exception:
                _logger.exception("exception calling callback for %r", self)
