"""Whether this process has room for as many workers as a queue's concurrency asks for.

A pool that wants more than there is tries again and again, and says so each time. So what can't be
had is refused before.
"""

from __future__ import annotations

import resource
from pathlib import Path

# What the pool keeps open here for each worker; see `src/supervisor`. Only under forkserver do
# workers share the process that forks them.
_DESCRIPTORS = {"forkserver": 4}
_MOST_DESCRIPTORS = 8

# What any start of a process takes for a moment.
_START_DESCRIPTORS = 32


def check(concurrency: int, method: str | None) -> None:
    """Check that workers for all jobs that may run at the same time can be had.

    :param concurrency: How many these are.
    :param method: The name of the start method.
    :raises ValueError: If it is no number of workers, or more than descriptors allow.
    """
    if concurrency < 1:
        raise ValueError(f"concurrency must be at least 1, not {concurrency}")
    each = _DESCRIPTORS.get(method or "", _MOST_DESCRIPTORS)
    needed = concurrency * each + _START_DESCRIPTORS
    allowed, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    if allowed == resource.RLIM_INFINITY:
        return
    taken = sum(1 for _ in Path("/proc/self/fd").iterdir())
    if needed > allowed - taken:
        raise ValueError(
            f"concurrency {concurrency} needs {needed} descriptors, of which this process may "
            f"open {allowed} (RLIMIT_NOFILE), and has {taken} open; "
            f"{max(0, allowed - taken - _START_DESCRIPTORS) // each} is the most there is room for"
        )
