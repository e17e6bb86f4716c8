"""Priorities, and the bound on how many tasks may wait."""

from __future__ import annotations

import asyncio
import concurrent.futures
import queue
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
import tasks
from pools import MakePool
from processes import await_death, await_pid, eventually

import deadpool


@pytest.fixture
def full_pool(make_pool: MakePool, begun: Path, release: Path) -> Iterator[deadpool.Deadpool]:
    """A pool with one running task, and one that takes the only place in the backlog."""
    pool = make_pool(max_backlog=1)
    pool.submit(tasks.hold, begun, release)
    await_pid(begun)
    pool.submit(tasks.nothing)
    yield pool
    release.touch()


def test_priorities(pool: deadpool.Deadpool, begun: Path, release: Path, tmp_path: Path) -> None:
    pool.submit(tasks.hold, begun, release)
    await_pid(begun)
    log = tmp_path / "log"
    order = [3, 0, 1, 3, 2**32 - 1, 0, 2, 1]
    futures = [
        pool.submit(tasks.append, log, f"{priority}-{number}", deadpool_priority=priority)
        for number, priority in enumerate(order)
    ]
    futures.append(pool.submit(tasks.append, log, "0-8"))
    release.touch()
    concurrent.futures.wait(futures)
    expected = sorted((priority, number) for number, priority in enumerate([*order, 0]))
    assert log.read_text().split() == [f"{priority}-{number}" for priority, number in expected]


def test_what_is_taken_back_keeps_its_place(
    pool: deadpool.Deadpool, begun: Path, release: Path, tmp_path: Path
) -> None:
    log = tmp_path / "log"
    for _ in range(50):
        pool.submit(tasks.nothing)
    pool.submit(tasks.hold, begun, release)
    futures = [pool.submit(tasks.append, log, number) for number in range(50)]
    await_pid(begun)
    urgent = [pool.submit(tasks.append, log, number) for number in range(50, 60)]
    release.touch()
    concurrent.futures.wait(futures + urgent)
    assert log.read_text().split() == [str(number) for number in range(60)]


def test_a_full_backlog_blocks_until_there_is_room(
    full_pool: deadpool.Deadpool, release: Path
) -> None:
    future: list[deadpool.Future] = []
    thread = threading.Thread(target=lambda: future.append(full_pool.submit(tasks.add, 1, 1)))
    thread.start()
    thread.join(0.1)
    assert thread.is_alive()
    release.touch()
    thread.join(20)
    assert future[0].result() == 2


def test_a_full_backlog_raises_where_that_is_wanted(full_pool: deadpool.Deadpool) -> None:
    with pytest.raises(deadpool.BacklogFull, match="full"):
        full_pool.submit(tasks.nothing, deadpool_block=False)
    with pytest.raises(queue.Full):
        full_pool.submit(tasks.nothing, deadpool_block=False)


def test_there_is_room_again(full_pool: deadpool.Deadpool, begun: Path, release: Path) -> None:
    release.touch()

    def submit() -> deadpool.Future | None:
        try:
            return full_pool.submit(tasks.add, 1, 1, deadpool_block=False)
        except deadpool.BacklogFull:
            return None

    assert eventually(submit).result() == 2


def test_cancelling_makes_room(make_pool: MakePool, begun: Path, release: Path) -> None:
    pool = make_pool(max_backlog=2)
    pool.submit(tasks.hold, begun, release)
    await_pid(begun)
    waiting = [pool.submit(tasks.nothing) for _ in range(2)]
    released: list[deadpool.Future] = []
    thread = threading.Thread(target=lambda: released.append(pool.submit(tasks.add, 1, 1)))
    thread.start()
    waiting[0].cancel()
    thread.join(20)
    assert len(released) == 1
    with pytest.raises(deadpool.BacklogFull):
        pool.submit(tasks.nothing, deadpool_block=False)
    release.touch()
    assert released[0].result() == 2


def test_a_task_that_cannot_be_pickled_takes_no_room(full_pool: deadpool.Deadpool) -> None:
    assert full_pool.submit(tasks.identity, lambda: None).exception() is not None


def test_the_bound_holds(make_pool: MakePool) -> None:
    pool = make_pool(2, max_backlog=5)
    waiting: list[int] = []
    stop = threading.Event()

    def watch() -> None:
        while not stop.is_set():
            waiting.append(pool._waiting())

    watching = threading.Thread(target=watch)
    watching.start()
    futures: list[deadpool.Future] = []
    threads = [
        threading.Thread(
            target=lambda: futures.extend(pool.submit(tasks.add, 1, 1) for _ in range(100))
        )
        for _ in range(4)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    stop.set()
    watching.join()
    assert [future.result() for future in futures] == [2] * 400
    # What was sent ahead and taken back had its place before.
    assert max(waiting) <= 5 + 2 * 32


@pytest.mark.parametrize("bound", [0, None])
def test_without_a_bound(
    make_pool: MakePool, begun: Path, release: Path, bound: int | None
) -> None:
    pool = make_pool(max_backlog=bound)
    pool.submit(tasks.hold, begun, release)
    futures = [pool.submit(tasks.identity, number) for number in range(3000)]
    release.touch()
    assert [future.result() for future in futures] == list(range(3000))


# asubmit.


def test_asubmit_returns_the_result(pool: deadpool.Deadpool) -> None:
    async def main() -> None:
        assert await pool.asubmit(tasks.add, 1, right=2) == 3
        with pytest.raises(KeyError):
            await pool.asubmit(tasks.raise_, KeyError("key"))
        with pytest.raises(deadpool.TimeoutError):
            await pool.asubmit(tasks.spin, deadpool_timeout=0.1)
        with pytest.raises(TypeError):
            await pool.asubmit(None)
        with pytest.raises(TypeError, match="deadpool_timout"):
            await pool.asubmit(tasks.nothing, deadpool_timout=1)

    asyncio.run(main())


def test_asubmit_waits_for_room_without_blocking_the_loop(make_pool: MakePool) -> None:
    pool = make_pool(max_backlog=2)

    async def main() -> list[int]:
        ticks = 0

        async def tick() -> None:
            nonlocal ticks
            while True:
                ticks += 1
                await asyncio.sleep(0.001)

        ticking = asyncio.create_task(tick())
        results = await asyncio.gather(*(pool.asubmit(tasks.sleep, 0.002) for _ in range(50)))
        ticking.cancel()
        assert ticks > 20
        return results

    assert asyncio.run(main()) == [0.002] * 50


def test_asubmit_is_first_come_first_served(
    make_pool: MakePool, begun: Path, release: Path, tmp_path: Path
) -> None:
    pool = make_pool(max_backlog=1)
    log = tmp_path / "log"

    async def main() -> None:
        pool.submit(tasks.hold, begun, release)
        waiting = [asyncio.create_task(pool.asubmit(tasks.append, log, n)) for n in range(20)]
        await asyncio.sleep(0.02)
        release.touch()
        await asyncio.gather(*waiting)

    asyncio.run(main())
    assert log.read_text().split() == [str(number) for number in range(20)]


def test_cancelling_asubmit_while_it_waits_for_room(
    full_pool: deadpool.Deadpool, release: Path, tmp_path: Path
) -> None:
    marker = tmp_path / "marker"

    async def main() -> int:
        waiting = [asyncio.create_task(full_pool.asubmit(tasks.touch, marker)) for _ in range(3)]
        last = asyncio.create_task(full_pool.asubmit(tasks.add, 1, 1))
        await asyncio.sleep(0.02)
        for task in waiting:
            task.cancel()
        release.touch()
        return await asyncio.wait_for(last, 20)

    assert asyncio.run(main()) == 2
    assert not marker.exists()


def test_cancelling_asubmit_kills_where_that_is_wanted(make_pool: MakePool, begun: Path) -> None:
    pool = make_pool(kill_on_cancel=True)

    async def main() -> None:
        running = asyncio.create_task(pool.asubmit(tasks.begin_and, begun, tasks.spin))
        while not begun.exists():
            await asyncio.sleep(0.001)
        running.cancel()
        with pytest.raises(asyncio.CancelledError):
            await running

    asyncio.run(main())
    await_death([await_pid(begun)], 5)


def test_asubmit_is_told_of_the_end(full_pool: deadpool.Deadpool) -> None:
    async def main() -> None:
        waiting = [asyncio.create_task(full_pool.asubmit(tasks.nothing)) for _ in range(3)]
        await asyncio.sleep(0.02)
        full_pool.shutdown(wait=False)
        results = await asyncio.wait_for(asyncio.gather(*waiting, return_exceptions=True), 20)
        assert [type(result) for result in results] == [deadpool.PoolClosed] * 3
        with pytest.raises(deadpool.PoolClosed):
            await full_pool.asubmit(tasks.nothing)

    asyncio.run(main())


def test_asubmit_from_several_loops(make_pool: MakePool) -> None:
    pool = make_pool(max_backlog=1)
    results: list[list[int]] = []

    async def main() -> None:
        results.append(await asyncio.gather(*(pool.asubmit(tasks.add, n, 1) for n in range(30))))

    threads = [threading.Thread(target=lambda: asyncio.run(main())) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    assert results == [list(range(1, 31))] * 3
