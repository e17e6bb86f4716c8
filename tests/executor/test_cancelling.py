"""Giving up on a task, and stopping it."""

from __future__ import annotations

import asyncio
import concurrent.futures
import os
import signal
import threading
from pathlib import Path

import pytest
import tasks
from pools import MakePool
from processes import await_death, await_pid, await_pids, eventually, is_alive

import deadpool


def test_a_waiting_task_is_never_run(
    pool: deadpool.Deadpool, begun: Path, release: Path, tmp_path: Path
) -> None:
    running = pool.submit(tasks.hold, begun, release)
    waiting = pool.submit(tasks.touch, tmp_path / "marker")
    assert waiting.cancel()
    assert waiting.cancelled()
    assert waiting.cancel()
    release.touch()
    running.result()
    pool.submit(tasks.nothing).result()
    assert not (tmp_path / "marker").exists()
    with pytest.raises(deadpool.CancelledError):
        waiting.result()
    with pytest.raises(deadpool.CancelledError):
        waiting.exception()


def test_a_running_task_goes_on_without_its_future(
    pool: deadpool.Deadpool, begun: Path, release: Path
) -> None:
    future = pool.submit(tasks.hold, begun, release)
    pid = await_pid(begun)
    assert future.cancel()
    assert future.cancelled()
    assert is_alive(pid)
    release.touch()
    assert pool.submit(tasks.getpid).result() == pid


def test_what_has_ended_cannot_be_cancelled(pool: deadpool.Deadpool) -> None:
    future = pool.submit(tasks.add, 1, 1)
    assert future.result() == 2
    assert not future.cancel()
    assert not future.cancel_and_kill_if_running()
    assert not future.cancelled()
    assert future.result() == 2


def test_kill_on_cancel(make_pool: MakePool, start_method: str, begun: Path) -> None:
    pool = make_pool(mp_context=start_method, kill_on_cancel=True)
    future = pool.submit(tasks.start_session, begun)
    pids = await_pids(begun)
    assert future.cancel()
    await_death(pids)
    assert pool.submit(tasks.add, 1, 1).result() == 2


def test_cancel_and_kill(make_pool: MakePool, start_method: str, begun: Path) -> None:
    pool = make_pool(mp_context=start_method)
    future = pool.submit(tasks.start_daemon, begun)
    pids = await_pids(begun)
    assert future.cancel_and_kill_if_running()
    assert future.cancelled()
    assert future.cancel_and_kill_if_running()
    await_death(pids)
    assert pool.submit(tasks.add, 1, 1).result() == 2


def test_killing_with_another_signal(pool: deadpool.Deadpool, begun: Path, tmp_path: Path) -> None:
    marker = tmp_path / "marker"
    future = pool.submit(tasks.note_sigterm, begun, marker)
    pid = await_pid(begun)
    assert future.cancel_and_kill_if_running(signal.SIGTERM)
    assert await_pid(marker) == pid
    await_death([pid], 5)
    assert pool.submit(tasks.add, 1, 1).result() == 2


def test_a_task_that_ignores_the_signal_is_killed(make_pool: MakePool, begun: Path) -> None:
    pool = make_pool(kill_grace_period=0.1)
    future = pool.submit(tasks.ignore_sigterm, begun)
    pid = await_pid(begun)
    assert future.cancel_and_kill_if_running(signal.SIGTERM)
    await_death([pid], 5)


def test_killing_one_that_waits(
    pool: deadpool.Deadpool, begun: Path, release: Path, tmp_path: Path
) -> None:
    pool.submit(tasks.hold, begun, release)
    pid = await_pid(begun)
    waiting = pool.submit(tasks.touch, tmp_path / "marker")
    assert waiting.cancel_and_kill_if_running()
    release.touch()
    assert pool.submit(tasks.getpid).result() == pid
    assert not (tmp_path / "marker").exists()


def test_exit_handlers_run_before_the_kill(
    pool: deadpool.Deadpool, begun: Path, tmp_path: Path
) -> None:
    marker = tmp_path / "marker"
    future = pool.submit(tasks.handle_exit_and_hang, marker, begun)
    pid = await_pid(begun)
    future.cancel_and_kill_if_running()
    await_death([pid], 5)
    assert await_pid(marker) == pid


@pytest.mark.parametrize("victim", [0, 1, 5, 20, 80])
def test_a_neighbour_is_never_hit(make_pool: MakePool, victim: int) -> None:
    pool = make_pool()
    for _ in range(5):
        futures = [pool.submit(tasks.add, number, 0) for number in range(100)]
        futures[victim].cancel_and_kill_if_running()
        for number, future in enumerate(futures):
            if number == victim:
                assert future.cancelled() or future.result() == number
            else:
                assert future.result(20) == number


def test_killing_many_among_many(make_pool: MakePool) -> None:
    pool = make_pool(2)
    futures = [pool.submit(tasks.sleep, 0.0005) for _ in range(400)]
    victims = futures[::7]
    for victim in victims:
        victim.cancel_and_kill_if_running()
    for future in futures:
        if future in victims:
            assert future.cancelled() or future.result() == 0.0005
        else:
            assert future.result(20) == 0.0005


def test_waiters_and_callbacks_are_told(pool: deadpool.Deadpool, begun: Path) -> None:
    future = pool.submit(tasks.begin_and, begun, tasks.spin)
    await_pid(begun)
    told = threading.Event()
    future.add_done_callback(lambda _: told.set())
    waiting = threading.Thread(target=concurrent.futures.wait, args=([future],))
    waiting.start()
    future.cancel_and_kill_if_running()
    assert told.wait(20)
    waiting.join(20)
    assert not waiting.is_alive()


@pytest.mark.parametrize("bad", ["9", None, 1.5])
def test_a_signal_is_a_number(pool: deadpool.Deadpool, bad: object) -> None:
    future = pool.submit(tasks.nothing)
    with pytest.raises(TypeError):
        future.cancel_and_kill_if_running(bad)
    assert future.result() is None


@pytest.mark.parametrize("bad", [-1, 0, 1000])
def test_a_signal_exists(pool: deadpool.Deadpool, begun: Path, release: Path, bad: int) -> None:
    future = pool.submit(tasks.hold, begun, release)
    await_pid(begun)
    with pytest.raises(ValueError, match="sig"):
        future.cancel_and_kill_if_running(bad)
    release.touch()
    assert future.result() == await_pid(begun)


# asyncio.


def test_wrapped_for_asyncio(pool: deadpool.Deadpool) -> None:
    async def main() -> list[int]:
        futures = [pool.submit(tasks.add, number, 1) for number in range(10)]
        return await asyncio.gather(*map(asyncio.wrap_future, futures))

    assert asyncio.run(main()) == list(range(1, 11))


def test_run_in_an_executor(pool: deadpool.Deadpool) -> None:
    async def main() -> None:
        loop = asyncio.get_running_loop()
        assert await loop.run_in_executor(pool, tasks.add, 1, 2) == 3
        with pytest.raises(KeyError):
            await loop.run_in_executor(pool, tasks.raise_, KeyError())

    asyncio.run(main())


def test_cancelling_an_asyncio_task_stops_the_work(make_pool: MakePool, begun: Path) -> None:
    pool = make_pool(kill_on_cancel=True)

    async def main() -> None:
        loop = asyncio.get_running_loop()
        work = loop.run_in_executor(pool, tasks.begin_and, begun, tasks.spin)
        with pytest.raises(asyncio.TimeoutError):
            await asyncio.wait_for(work, 1)

    asyncio.run(main())
    await_death([await_pid(begun)], 5)


# Where it runs.


def test_the_pid_is_that_of_the_worker(
    make_pool: MakePool, start_method: str, begun: Path, release: Path
) -> None:
    pool = make_pool(mp_context=start_method)
    future = pool.submit(tasks.hold, begun, release)
    waiting = pool.submit(tasks.nothing)
    pid = await_pid(begun)
    assert eventually(lambda: future.pid) == pid
    assert waiting.pid is None
    release.touch()
    assert future.result() == pid == future.pid


def test_pid_callbacks_are_called_once_each(
    pool: deadpool.Deadpool, begun: Path, release: Path
) -> None:
    pool.submit(tasks.hold, begun, release)
    calls: list[tuple[int, int | None]] = []
    future = pool.submit(tasks.hold, begun.with_name("second"), begun.with_name("go on"))
    for number in range(3):
        future.add_pid_callback(lambda it, number=number: calls.append((number, it.pid)))
    await_pid(begun)
    assert calls == []
    release.touch()
    pid = await_pid(begun.with_name("second"))
    eventually(lambda: len(calls) == 3)
    future.add_pid_callback(lambda it: calls.append((3, it.pid)))
    eventually(lambda: len(calls) == 4)
    begun.with_name("go on").touch()
    future.result()
    future.add_pid_callback(lambda it: calls.append((4, it.pid)))
    assert calls == [(number, pid) for number in range(5)]


def test_pid_callbacks_of_short_tasks(pool: deadpool.Deadpool) -> None:
    pids: list[int | None] = []
    futures = [pool.submit(tasks.getpid) for _ in range(100)]
    for future in futures:
        future.add_pid_callback(lambda it: pids.append(it.pid))
    assert len({future.result() for future in futures}) == 1
    eventually(lambda: len(pids) == 100)
    assert set(pids) == {futures[0].result()}


def test_a_pid_callback_may_kill(pool: deadpool.Deadpool) -> None:
    future = pool.submit(tasks.spin)
    future.add_pid_callback(lambda it: os.kill(it.pid, signal.SIGKILL))
    assert isinstance(future.exception(20), deadpool.ProcessError)


def test_a_pid_callback_that_raises_hurts_nobody(
    pool: deadpool.Deadpool, caplog: pytest.LogCaptureFixture
) -> None:
    called = threading.Event()
    future = pool.submit(tasks.sleep, 0.05)
    future.add_pid_callback(lambda _: 1 / 0)
    future.add_pid_callback(lambda _: called.set())
    assert future.result() == 0.05
    assert called.wait(20)
    assert "ZeroDivisionError" in caplog.text


def test_a_task_without_a_worker_has_no_pid(pool: deadpool.Deadpool) -> None:
    calls: list[object] = []
    future = pool.submit(tasks.nothing, deadpool_timeout=0)
    future.add_pid_callback(calls.append)
    assert isinstance(future.exception(), deadpool.TimeoutError)
    assert future.pid is None
    assert calls == []
