"""The future of a task."""

import concurrent.futures
from typing import TypeVar

from ._core import FutureBase

__all__ = ["Future"]

_T = TypeVar("_T")

class Future(FutureBase[_T], concurrent.futures.Future[_T]):
    """The result of a task that may not have ended yet.

    A :class:`concurrent.futures.Future` with three differences: a running task can be cancelled,
    which gives up on its result; the process that runs the task is known; and it can be killed.
    """
