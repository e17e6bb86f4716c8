"""The four ways to shut down, and everything that may go on meanwhile."""

from __future__ import annotations

import concurrent.futures
import threading
import time
from pathlib import Path
from typing import Any

import pytest
import tasks
from pools import MakePool
from processes import await_death, await_pid, eventually, is_alive

import deadpool
from deadpool._start import threads

pytestmark = pytest.mark.every_python

CLOSED = "cannot schedule new futures after shutdown"


@pytest.fixture
def busy(make_pool: MakePool, begun: Path, release: Path) -> tuple[deadpool.Deadpool, list]:
    """A pool with one running task and three that wait."""
    pool = make_pool()
    futures = [pool.submit(tasks.hold, begun, release)]
    futures += [pool.submit(tasks.add, number, 1) for number in range(3)]
    await_pid(begun)
    return pool, futures


def release_later(release: Path) -> threading.Timer:
    timer = threading.Timer(0.1, release.touch)
    timer.start()
    return timer


def test_waiting_finishes_everything(busy: tuple, begun: Path, release: Path) -> None:
    pool, futures = busy
    timer = release_later(release)
    pool.shutdown(wait=True)
    timer.join()
    pid = await_pid(begun)
    assert [future.result(0) for future in futures] == [pid, 1, 2, 3]
    assert not is_alive(pid)


def test_waiting_and_cancelling_finishes_what_runs(busy: tuple, begun: Path, release: Path) -> None:
    pool, futures = busy
    timer = release_later(release)
    pool.shutdown(wait=True, cancel_futures=True)
    timer.join()
    pid = await_pid(begun)
    assert futures[0].result(0) == pid
    assert all(future.cancelled() for future in futures[1:])
    assert not is_alive(pid)


def test_cancelling_without_waiting_kills_what_runs(
    busy: tuple, begun: Path, release: Path
) -> None:
    pool, futures = busy
    pool.shutdown(wait=False, cancel_futures=True)
    assert all(future.cancelled() for future in futures)
    await_death([await_pid(begun)])


def test_not_waiting_finishes_what_runs_in_the_background(
    busy: tuple, begun: Path, release: Path
) -> None:
    pool, futures = busy
    pool.shutdown(wait=False, cancel_futures=False)
    assert not futures[0].done()
    assert all(future.cancelled() for future in futures[1:])
    release.touch()
    pid = await_pid(begun)
    assert futures[0].result(20) == pid
    await_death([pid])


@pytest.mark.parametrize("wait", [True, False])
@pytest.mark.parametrize("cancel_futures", [True, False])
def test_nothing_is_accepted_afterwards(
    make_pool: MakePool, wait: bool, cancel_futures: bool
) -> None:
    pool = make_pool()
    pool.shutdown(wait, cancel_futures=cancel_futures)
    with pytest.raises(deadpool.PoolClosed, match=CLOSED):
        pool.submit(tasks.nothing)
    with pytest.raises(RuntimeError, match=CLOSED):
        pool.map(tasks.nothing, [1])
    pool.clear_workers()
    pool.resize(3)
    assert pool.workers() == [] or wait is False


def test_twice(make_pool: MakePool, start_method: str) -> None:
    pool = make_pool(mp_context=start_method)
    future = pool.submit(tasks.add, 1, 1)
    pool.shutdown()
    pool.shutdown()
    pool.shutdown(wait=False)
    pool.shutdown(wait=False, cancel_futures=True)
    assert future.result(0) == 2


def test_a_second_shutdown_may_be_harder(busy: tuple, begun: Path) -> None:
    pool, futures = busy
    pool.shutdown(wait=False)
    pool.shutdown(wait=False, cancel_futures=True)
    assert futures[0].cancelled()
    await_death([await_pid(begun)])


def test_a_second_shutdown_is_never_softer(busy: tuple, release: Path) -> None:
    pool, futures = busy
    pool.shutdown(wait=False)
    timer = release_later(release)
    pool.shutdown(wait=True)
    timer.join()
    assert all(future.cancelled() for future in futures[1:])


def test_from_a_callback(make_pool: MakePool) -> None:
    pool = make_pool()
    ended = threading.Event()
    future = pool.submit(tasks.add, 1, 1)

    def shut_down(_done: object) -> None:
        pool.shutdown(wait=True)
        ended.set()

    future.add_done_callback(shut_down)
    assert ended.wait(20)
    with pytest.raises(deadpool.PoolClosed):
        pool.submit(tasks.nothing)


def test_from_many_threads_at_once(make_pool: MakePool) -> None:
    pool = make_pool(2)
    futures = [pool.submit(tasks.add, number, 0) for number in range(50)]
    threads = [threading.Thread(target=pool.shutdown) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [future.result(0) for future in futures] == list(range(50))


@pytest.mark.parametrize("wait", [True, False])
@pytest.mark.parametrize("cancel_futures", [True, False])
def test_while_threads_submit(make_pool: MakePool, wait: bool, cancel_futures: bool) -> None:
    pool = make_pool(2, max_backlog=8)
    futures: list[deadpool.Future] = []
    refused = []

    def submit() -> None:
        try:
            while True:
                futures.append(pool.submit(tasks.add, 1, 1))
        except deadpool.PoolClosed:
            refused.append(True)

    threads = [threading.Thread(target=submit) for _ in range(4)]
    for thread in threads:
        thread.start()
    eventually(lambda: len(futures) > 50)
    pool.shutdown(wait, cancel_futures=cancel_futures)
    for thread in threads:
        thread.join()
    assert refused == [True] * 4
    concurrent.futures.wait(futures, timeout=20)
    for future in futures:
        assert future.done()
        assert future.cancelled() or future.result(0) == 2
    if wait and not cancel_futures:
        assert not any(future.cancelled() for future in futures)


def test_a_blocked_submit_is_released(make_pool: MakePool, begun: Path, release: Path) -> None:
    pool = make_pool(max_backlog=1)
    pool.submit(tasks.hold, begun, release)
    await_pid(begun)
    pool.submit(tasks.nothing)
    errors: list[BaseException] = []

    def submit() -> None:
        try:
            pool.submit(tasks.nothing)
        except BaseException as error:
            errors.append(error)

    threads = [threading.Thread(target=submit) for _ in range(3)]
    for thread in threads:
        thread.start()
    time.sleep(0.02)  # They may or may not have come to wait; both must end.
    pool.shutdown(wait=False)
    for thread in threads:
        thread.join(20)
    assert [type(error) for error in errors] == [deadpool.PoolClosed] * 3
    release.touch()


def test_before_any_worker_is_there(make_pool: MakePool, start_method: str) -> None:
    for _ in range(3):
        make_pool(2, mp_context=start_method).shutdown()


def test_at_once_with_work(make_pool: MakePool, start_method: str) -> None:
    pool = make_pool(mp_context=start_method)
    futures = [pool.submit(tasks.add, number, 0) for number in range(5)]
    pool.shutdown()
    assert [future.result(0) for future in futures] == list(range(5))


def test_a_context_manager_waits(begun: Path) -> None:
    with deadpool.Deadpool(1) as pool:
        future = pool.submit(tasks.touch, begun)
    assert future.done()
    assert begun.exists()


def test_a_context_manager_passes_its_options(begun: Path, release: Path) -> None:
    with deadpool.Deadpool(1, shutdown_wait=False, shutdown_cancel_futures=True) as pool:
        running = pool.submit(tasks.hold, begun, release)
        waiting = pool.submit(tasks.nothing)
        pid = await_pid(begun)
    assert running.cancelled()
    assert waiting.cancelled()
    await_death([pid])
    with deadpool.Deadpool(1, shutdown_cancel_futures=True) as pool:
        futures = [pool.submit(tasks.sleep, 0.05) for _ in range(4)]
    assert all(future.done() for future in futures)
    assert futures[-1].cancelled()


def test_a_context_manager_ends_after_an_exception() -> None:
    with pytest.raises(KeyError), deadpool.Deadpool(1) as pool:
        future = pool.submit(tasks.add, 1, 1)
        raise KeyError
    assert future.result(0) == 2


def test_cancelled_futures_tell_those_who_wait(busy: tuple) -> None:
    pool, futures = busy
    told = threading.Event()
    futures[1].add_done_callback(lambda _: told.set())
    pool.shutdown(wait=False, cancel_futures=True)
    assert told.wait(20)
    assert not concurrent.futures.wait(futures, timeout=20).not_done
    with pytest.raises(concurrent.futures.CancelledError):
        futures[0].result()


def test_kill_workers(busy: tuple, begun: Path) -> None:
    pool, futures = busy
    pool.kill_workers()
    assert all(future.done() for future in futures)
    await_death([await_pid(begun)])
    with pytest.raises(deadpool.PoolClosed):
        pool.submit(tasks.nothing)


def test_terminate_workers(busy: tuple, begun: Path) -> None:
    pool, futures = busy
    pool.terminate_workers()
    eventually(lambda: all(future.done() for future in futures))
    await_death([await_pid(begun)], 5)
    with pytest.raises(deadpool.PoolClosed):
        pool.submit(tasks.nothing)


def test_terminate_workers_lets_handlers_run(
    make_pool: MakePool, begun: Path, tmp_path: Path
) -> None:
    pool = make_pool()
    marker = tmp_path / "marker"
    pool.submit(tasks.note_sigterm, begun, marker)
    pid = await_pid(begun)
    pool.terminate_workers()
    assert await_pid(marker) == pid


def test_terminate_workers_kills_those_that_do_not_listen(make_pool: MakePool, begun: Path) -> None:
    pool = make_pool(kill_grace_period=0.1)
    pool.submit(tasks.ignore_sigterm, begun)
    pid = await_pid(begun)
    pool.terminate_workers()
    await_death([pid], 5)


def test_a_worker_that_does_not_go_is_killed(make_pool: MakePool) -> None:
    pool = make_pool(finalizer=tasks.spin, kill_grace_period=0.02)
    pid = pool.submit(tasks.getpid).result()
    pool.shutdown()
    assert not is_alive(pid)


def test_what_is_not_wanted_any_more_is_not_started(
    make_pool: MakePool, monkeypatch: pytest.MonkeyPatch
) -> None:
    started = []
    start = threads.Threads._start_zygote

    def count(self: threads.Threads, number: int, control: int, launcher: Any) -> int:
        pid = start(self, number, control, launcher)
        started.append(pid)
        return pid

    monkeypatch.setattr(threads.Threads, "_start_zygote", count)
    make_pool(30, mp_context="spawn").shutdown()
    assert len(started) < 30
