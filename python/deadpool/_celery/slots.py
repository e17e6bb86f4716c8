"""Holding back tasks while all workers are busy, so that they can still be revoked or given back."""

from __future__ import annotations

import heapq
import itertools
import queue
from collections.abc import Callable, Sequence
from typing import Any


class _ByPriority:
    """Those that wait for a place, by priority and then as they came; with the names that a deque has.

    :param priority: Returns the priority, 0 the highest, of one from the arguments it is called with.
    """

    def __init__(self, priority: Callable[[Sequence[Any]], int]) -> None:
        self._priority = priority
        self._waiting: list[tuple[int, int, Any]] = []
        self._count = itertools.count()

    def __len__(self) -> int:
        return len(self._waiting)

    def append(self, waiter: Any) -> None:
        _function, args, _kwargs = waiter
        heapq.heappush(self._waiting, (self._priority(args), next(self._count), waiter))

    def popleft(self) -> Any:
        return heapq.heappop(self._waiting)[-1]

    def clear(self) -> None:
        self._waiting.clear()


class HubSlots:
    """Celery's own semaphore, which the event loop uses. Not to be used by other threads.

    :param semaphore: The semaphore; None if there is none.
    :param priority: Returns the priority of what waits for it, 0 the highest.
    """

    def __init__(self, semaphore: Any, priority: Callable[[Sequence[Any]], int]) -> None:
        self._semaphore = semaphore
        if semaphore is not None:
            # It lets them in as they came. It has no other place to say so, in any version so far.
            semaphore._waiting = waiting = _ByPriority(priority)
            semaphore._add_waiter = waiting.append
            semaphore._pop_waiter = waiting.popleft

    def acquire(self) -> None:
        """Do nothing: Celery has taken the place before it submits."""

    def release(self) -> None:
        """Give a place to the next that waits."""
        if self._semaphore is not None:
            self._semaphore.release()

    def grow(self, n: int) -> None:
        """Add places."""
        if self._semaphore is not None:
            self._semaphore.grow(n)

    def shrink(self, n: int) -> None:
        """Remove places, taken or not."""
        if self._semaphore is not None:
            self._semaphore.shrink(n)

    def clear(self) -> None:
        """Forget those that wait."""
        if self._semaphore is not None:
            self._semaphore.clear()


class ThreadSlots:
    """As many places as there are workers; whoever submits waits for one.

    Made of a queue that may be used in signal handlers, which can come while one waits for a place.

    :param count: How many.
    """

    def __init__(self, count: int) -> None:
        self._free: queue.SimpleQueue[None] = queue.SimpleQueue()
        self._debt = 0
        self._is_cleared = False
        self.grow(count)

    def acquire(self) -> None:
        """Take a place. Blocks until there is one, or the pool is closed."""
        if not self._is_cleared:
            self._free.get()

    def release(self) -> None:
        """Give a place back."""
        if self._debt > 0:
            self._debt -= 1
        else:
            self._free.put(None)

    def grow(self, n: int) -> None:
        """Add places."""
        for _ in range(n):
            self.release()

    def shrink(self, n: int) -> None:
        """Remove places, the free ones first."""
        for _ in range(n):
            try:
                self._free.get_nowait()
            except queue.Empty:
                self._debt += 1

    def clear(self) -> None:
        """Hold nobody back any more."""
        self._is_cleared = True
        self._free.put(None)
