"""The limits of a job of Chancy, as the pool can take them.

They come out of a database, as JSON that anybody may have typed.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from chancy.job import Limit

from .options import LONGEST_SECONDS, check_whole


@dataclass(frozen=True)
class JobLimits:
    """What a job may use.

    :param seconds: How long it may run; None for any time.
    :param memory_bytes: How much memory it and what it starts may have; None for any.
    """

    seconds: float | None
    memory_bytes: int | None


def of_job(job: Any, get_limit: Callable[[Any, Limit.Type], Any]) -> JobLimits:
    """Return the limits of a job.

    :param get_limit: What finds them, ``Executor.get_limit``.
    :raises TypeError: If one is of another type; the error names it.
    :raises ValueError: If one is out of range.
    """
    seconds = get_limit(job, Limit.Type.TIME)
    memory_bytes = get_limit(job, Limit.Type.MEMORY)
    if seconds is not None:
        seconds = _checked_seconds(seconds)
    if memory_bytes is not None:
        check_whole("the job's MEMORY limit, in bytes,", memory_bytes, 1)
    return JobLimits(seconds, memory_bytes)


def _checked_seconds(value: Any) -> float:
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        raise TypeError(f"the job's TIME limit must be a number of seconds, not {value!r}")
    if not 0 <= value < math.inf:
        raise ValueError(f"the job's TIME limit must be at least 0 seconds and finite, not {value}")
    # What is longer is no limit that anybody sees the end of.
    return min(value, LONGEST_SECONDS)
