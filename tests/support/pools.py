"""What tests say of pools. Not in a conftest, of which there are several."""

from __future__ import annotations

from collections.abc import Callable

import tasks

import deadpool

START_METHODS = ("forkserver", "spawn", "fork")

MakePool = Callable[..., deadpool.Deadpool]


def check_pool(pool: deadpool.Deadpool) -> None:
    """Check that the pool is all right again, whatever the next few tasks meet."""
    for _ in range(3):
        # A worker that a task has ruined may take the next one with it, and that one only.
        pool.submit(tasks.add, 1, 1).exception(20)
    assert pool.submit(tasks.add, 1, 1).result(20) == 2
    assert pool.submit(bytes, 1_000_000).result(20) == bytes(1_000_000)
    timed_out = pool.submit(tasks.sleep, 3600, deadpool_timeout=0.2).exception(20)
    assert isinstance(timed_out, deadpool.TimeoutError)
    assert pool.submit(tasks.add, 1, 1).result(20) == 2
