"""Whether this process has room for as many workers as a queue's concurrency asks for.

A pool that wants more than there is tries again and again, and says so each time. So what can't be
had is refused before.
"""

from __future__ import annotations

import resource

# What the pool keeps open here for each worker; see `src/supervisor`. Only under forkserver do
# workers share the process that forks them.
_DESCRIPTORS = {"forkserver": 4}
_MOST_DESCRIPTORS = 8

# For all else: the program itself, connections to the database, and what a start of a process takes
# for a moment. Not those that are open now, since other pools may be starting.
_SPARE_DESCRIPTORS = 64


def descriptors(concurrency: int, method: str | None) -> int:
    """Return how many descriptors a pool has open when all of its workers are there.

    :param concurrency: How many workers these are.
    :param method: The name of the start method.
    """
    return concurrency * _DESCRIPTORS.get(method or "", _MOST_DESCRIPTORS)


def check(concurrency: int, method: str | None, others: int) -> None:
    """Check that workers for all jobs that may run at the same time can be had.

    :param concurrency: How many these are.
    :param method: The name of the start method.
    :param others: How many descriptors the pools of other queues may have open.
    :raises ValueError: If it is no number of workers, or more than descriptors allow.
    """
    if concurrency < 1:
        raise ValueError(f"concurrency must be at least 1, not {concurrency}")
    needed = descriptors(concurrency, method)
    allowed, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    taken = others + _SPARE_DESCRIPTORS
    if allowed != resource.RLIM_INFINITY and needed > allowed - taken:
        most = max(0, allowed - taken) // descriptors(1, method)
        raise ValueError(
            f"concurrency {concurrency} needs {needed} descriptors, and this process may open "
            f"{allowed} (RLIMIT_NOFILE), of which {taken} are for other things; {most} is the most "
            "there is room for"
        )
