"""The future of a task."""

from __future__ import annotations

import concurrent.futures

from ._core import FutureBase

__all__ = ["Future"]


# Its types stand in the stub beside it: the native base takes no parameters when the program runs.
class Future(FutureBase, concurrent.futures.Future):
    """The result of a task that may not have ended yet.

    A :class:`concurrent.futures.Future` with three differences: a running task can be cancelled,
    which gives up on its result; the process that runs the task is known; and it can be killed.
    """

    __module__ = "deadpool"

    __slots__ = ()
