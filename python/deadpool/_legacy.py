"""Attributes of the pure-Python releases that programs came to read, though they were never promised.

They are views of the present pool, and change nothing but the counters.
"""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from ._core import PoolBase
    from ._future import Future


class Backlog:
    """What was the queue of submitted jobs."""

    def __init__(self, pool: PoolBase) -> None:
        self._pool = pool

    def qsize(self) -> int:
        """Return how many tasks wait for a worker."""
        return self._pool._waiting()


class Counters:
    """What was the collection of counters."""

    def __init__(self, pool: PoolBase) -> None:
        self._pool = pool

    def reset_counters(self) -> None:
        """Count anew from zero."""
        self._pool._reset_counters()

    def to_dict(self) -> dict[str, int]:
        """Return the counters."""
        return self._pool._counters()


class Attributes:
    """Gives an executor those attributes."""

    __slots__ = ()

    @property
    def submitted_jobs(self) -> Backlog:
        """The tasks that wait."""
        from typing import cast

        return Backlog(cast("PoolBase", self))

    @property
    def running_futs(self) -> list[Future[Any]]:
        """The futures of the tasks that run."""
        from typing import cast

        return cast("list[Future[Any]]", cast("PoolBase", self)._running())

    @property
    def _statistics(self) -> Counters:
        from typing import cast

        return Counters(cast("PoolBase", self))
