"""The future of a task."""

from __future__ import annotations

import concurrent.futures

from ._core import FutureBase

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    _Future = concurrent.futures.Future[Any]
else:
    _Future = concurrent.futures.Future

__all__ = ["Future"]


class Future(FutureBase, _Future):
    """The result of a task that may not have ended yet.

    A :class:`concurrent.futures.Future` with three differences: a running task can be cancelled,
    which gives up on its result; the process that runs the task is known; and it can be killed.
    """

    __module__ = "deadpool"

    __slots__ = ()
