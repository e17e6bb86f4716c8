"""Holding back those who submit more than the workers can take."""

from __future__ import annotations

import threading
from typing import Any


class Slots:
    """As many places as there are workers; a task has one from its submission to its end.

    :param count: How many.
    """

    def __init__(self, count: int) -> None:
        self._count = count
        self._taken = 0
        self._cleared = False
        self._changed = threading.Condition()

    def acquire(self) -> None:
        """Take a place. Blocks until there is one, or the pool is closed."""
        with self._changed:
            self._changed.wait_for(lambda: self._cleared or self._taken < self._count)
            self._taken += 1

    def release(self) -> None:
        """Give a place back."""
        with self._changed:
            self._taken = max(self._taken - 1, 0)
            self._changed.notify()

    def grow(self) -> None:
        """Add a place."""
        with self._changed:
            self._count += 1
            self._changed.notify()

    def shrink(self) -> None:
        """Remove a place, taken or not."""
        with self._changed:
            self._count -= 1

    def clear(self) -> None:
        """Hold nobody back any more."""
        with self._changed:
            self._cleared = True
            self._changed.notify_all()


class ForeignSlots(Slots):
    """A semaphore of the user's, such as billiard's ``LaxBoundedSemaphore``.

    :param semaphore: Has at least ``acquire`` and ``release``.
    """

    def __init__(self, semaphore: Any) -> None:
        super().__init__(0)
        self._semaphore = semaphore

    def acquire(self) -> None:
        """Take a place. Blocks until there is one, or the pool is closed."""
        self._semaphore.acquire()

    def release(self) -> None:
        """Give a place back."""
        self._semaphore.release()

    def grow(self) -> None:
        """Add a place, if the semaphore can."""
        self._call("grow")

    def shrink(self) -> None:
        """Remove a place, if the semaphore can."""
        self._call("shrink")

    def clear(self) -> None:
        """Hold nobody back any more, if the semaphore can."""
        self._call("clear")

    def _call(self, name: str) -> None:
        method = getattr(self._semaphore, name, None)
        if method is not None:
            method()
