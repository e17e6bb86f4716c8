"""Coroutines that submit: how they end, and what many of them cost."""

from __future__ import annotations

import asyncio
import time
from pathlib import Path

import pytest
import tasks
from pools import MakePool

import deadpool


@pytest.mark.parametrize("raised", [StopIteration("enough"), StopAsyncIteration("enough")])
def test_an_exception_that_ends_an_iteration_ends_the_wait(
    pool: deadpool.Deadpool, raised: BaseException
) -> None:
    async def main() -> None:
        await asyncio.wait_for(pool.asubmit(tasks.raise_, raised), 20)

    with pytest.raises((RuntimeError, StopAsyncIteration)) as caught:
        asyncio.run(main())
    told = caught.value.__cause__ if isinstance(caught.value, RuntimeError) else caught.value
    assert type(told) is type(raised)
    assert told.args == ("enough",)


def test_a_loop_that_is_closed_loses_no_task(
    pool: deadpool.Deadpool, begun: Path, release: Path
) -> None:
    loop = asyncio.new_event_loop()

    async def begin() -> asyncio.Task[int]:
        running = asyncio.create_task(pool.asubmit(tasks.hold, begun, release))
        while not begun.exists():
            await asyncio.sleep(0.001)
        return running

    running = loop.run_until_complete(begin())
    # So that nothing warns of a task that was never awaited to its end.
    running._log_destroy_pending = False  # type: ignore[attr-defined]
    loop.close()
    release.touch()
    assert pool.submit(tasks.add, 1, 1).result(20) == 2
    assert pool.get_statistics()["tasks_failed"] == 0


def seconds_for_each(pool: deadpool.Deadpool, count: int) -> float:
    """Return what a task costs of which so many wait for room at the same time."""

    async def main() -> float:
        began = time.process_time()
        await asyncio.gather(*(pool.asubmit(tasks.nothing) for _ in range(count)))
        return (time.process_time() - began) / count

    return asyncio.run(main())


@pytest.mark.slow
def test_a_coroutine_that_waits_costs_the_same_however_many_wait(make_pool: MakePool) -> None:
    pool = make_pool(2, max_backlog=50)
    seconds_for_each(pool, 500)
    few = min(seconds_for_each(pool, 1000) for _ in range(3))
    many = seconds_for_each(pool, 20_000)
    # Twenty times as many; with a cost that grows with their number it was 6 times as much for each.
    assert many < 3 * few
