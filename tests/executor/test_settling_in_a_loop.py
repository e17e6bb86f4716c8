"""Futures that an event loop settles, as :mod:`deadpool.celery` has it, and no thread of the pool."""

from __future__ import annotations

import contextlib
import os
import select
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import tasks
from processes import eventually, run_script, threads_of_pools

import deadpool
from deadpool._core import ShutdownMode

LIMIT_SECONDS = 20.0


class LoopPool(deadpool.Deadpool):
    """A pool whose bell is rung, with the least of an event loop."""

    def __init__(self, *args: Any, **options: Any) -> None:
        self._bell = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)
        super().__init__(*args, **options, _bell=self._bell)

    def wait_for_bell(self, seconds: float = LIMIT_SECONDS) -> bool:
        """Wait until the bell is rung, and answer it; return whether it was."""
        assert self._bell is not None
        ready, _, _ = select.select([self._bell], [], [], seconds)
        if ready:
            os.eventfd_read(self._bell)
        return bool(ready)

    def run_until_done(self, futures: list[deadpool.Future]) -> None:
        """Settle futures until all of these have ended."""
        while not all(future._state == "FINISHED" for future in futures):
            assert self.wait_for_bell(), "nobody has rung"
            self._settle_ready()


@pytest.fixture
def pool() -> Iterator[LoopPool]:
    pool = LoopPool(2)
    yield pool
    pool.shutdown(wait=True, cancel_futures=True)
    assert pool._bell is not None
    os.close(pool._bell)


def completers() -> list[threading.Thread]:
    return [thread for thread in threading.enumerate() if thread.name == "deadpool-completer"]


def settled(future: deadpool.Future) -> deadpool.Future:
    """Give a future a callback, so that only who settles can end it."""
    future.add_done_callback(lambda _future: None)
    return future


def test_the_loop_settles_and_no_thread_does(pool: LoopPool) -> None:
    before = len(completers())
    called: list[tuple[str, int]] = []
    future = pool.submit(tasks.add, 21, 21)
    future.add_pid_callback(lambda _future: called.append(("begun", threading.get_ident())))
    future.add_done_callback(lambda _future: called.append(("done", threading.get_ident())))
    pool.run_until_done([future])
    assert future.result(0) == 42
    assert called == [("begun", threading.get_ident()), ("done", threading.get_ident())]
    assert len(completers()) == before == 0


def test_many_at_once(pool: LoopPool) -> None:
    futures = [settled(pool.submit(tasks.add, number, number)) for number in range(1000)]
    pool.run_until_done(futures)
    assert [future.result(0) for future in futures] == [2 * number for number in range(1000)]


def test_a_callback_may_wait_for_another_future(pool: LoopPool) -> None:
    other = settled(pool.submit(tasks.sleep, 0.1))
    found: list[Any] = []
    future = pool.submit(tasks.add, 1, 1)
    future.add_done_callback(lambda _future: found.append(other.result(LIMIT_SECONDS)))
    pool.run_until_done([future, other])
    assert found == [other.result(0)]


@pytest.mark.parametrize("cancel", ["cancel", "cancel_and_kill_if_running"])
def test_what_has_ended_is_not_cancelled_before_it_is_told(pool: LoopPool, cancel: str) -> None:
    future = settled(pool.submit(tasks.add, 21, 21))
    eventually(lambda: {worker.state for worker in pool.workers()} == {"idle"})
    assert not getattr(future, cancel)()
    assert future._state != "FINISHED"
    assert future._has_outcome()
    pool.run_until_done([future])
    assert future.result(0) == 42


def test_an_interrupt_of_a_callback_is_raised_and_loses_nothing(pool: LoopPool) -> None:
    def interrupt(_future: object) -> None:
        raise KeyboardInterrupt

    futures = [pool.submit(tasks.add, number, number) for number in range(50)]
    for future in futures:
        future.add_done_callback(interrupt)
    raised = 0
    while not all(future._state == "FINISHED" for future in futures):
        assert pool.wait_for_bell()
        try:
            pool._settle_ready()
        except KeyboardInterrupt:
            raised += 1
    assert raised > 0
    assert [future.result(0) for future in futures] == [2 * number for number in range(50)]


def test_an_interrupt_while_a_worker_s_end_is_told_is_raised() -> None:
    def interrupt(_pid: int, _exitcode: int | None) -> None:
        raise KeyboardInterrupt

    pool = LoopPool(1, max_tasks_per_child=1, on_worker_down=interrupt)
    try:
        future = settled(pool.submit(tasks.add, 1, 1))
        with pytest.raises(KeyboardInterrupt):
            while pool.wait_for_bell():
                pool._settle_ready()
        pool.run_until_done([future])
        assert future.result(0) == 2
    finally:
        pool._close(ShutdownMode.DRAIN, False)
        while "completer" in pool._threads._going:
            assert pool.wait_for_bell()
            with contextlib.suppress(KeyboardInterrupt):
                pool._settle_ready()
        pool.shutdown(wait=True)
        assert pool._bell is not None
        os.close(pool._bell)


def test_an_interrupt_beside_the_end_hides_nothing() -> None:
    def interrupt(_pid: int, _exitcode: int | None) -> None:
        raise KeyboardInterrupt

    pool = LoopPool(1, on_worker_down=interrupt)
    future = settled(pool.submit(tasks.add, 1, 1))
    pool.run_until_done([future])
    pool._close(ShutdownMode.DRAIN, False)
    eventually(lambda: "deadpool-super" not in threads_of_pools())
    # The worker's end is told, and the pool's, by the same ring.
    assert pool.wait_for_bell()
    with pytest.raises(KeyboardInterrupt):
        pool._settle_ready()
    assert "completer" not in pool._threads._going
    pool.shutdown(wait=True)
    assert pool._bell is not None
    os.close(pool._bell)


def test_shutting_down_without_waiting_does_not_block(pool: LoopPool) -> None:
    futures = [settled(pool.submit(tasks.sleep, LIMIT_SECONDS)) for _ in range(4)]
    pool.shutdown(wait=False, cancel_futures=True)
    while not all(future._state == "CANCELLED_AND_NOTIFIED" for future in futures):
        assert pool.wait_for_bell()
        pool._settle_ready()


@pytest.mark.parametrize("end", ["shutdown", "kill_workers", "terminate_workers"])
def test_another_thread_does_not_wait_for_the_loop(pool: LoopPool, end: str) -> None:
    future = settled(pool.submit(tasks.add, 1, 1))
    pool.run_until_done([future])
    waiting = [settled(pool.submit(tasks.sleep, LIMIT_SECONDS)) for _ in range(4)]
    options = {"wait": False, "cancel_futures": True} if end == "shutdown" else {}
    thread = threading.Thread(target=getattr(pool, end), kwargs=options, daemon=True)
    thread.start()
    thread.join(LIMIT_SECONDS)
    assert not thread.is_alive()
    while not all(future._state == "CANCELLED_AND_NOTIFIED" for future in waiting):
        assert pool.wait_for_bell()
        pool._settle_ready()


def test_whoever_waits_for_the_end_has_a_thread_settle(pool: LoopPool) -> None:
    futures = [settled(pool.submit(tasks.add, number, number)) for number in range(20)]
    pool.shutdown(wait=True)
    assert [future.result(0) for future in futures] == [2 * number for number in range(20)]
    pool._settle_ready()
    assert completers() == []


def test_the_end_may_come_in_the_loop_too(pool: LoopPool) -> None:
    future = settled(pool.submit(tasks.add, 4, 4))
    pool._close(ShutdownMode.DRAIN, False)
    pool.run_until_done([future])
    while "completer" in pool._threads._going:
        assert pool.wait_for_bell()
        pool._settle_ready()
    # There is nothing left that a thread could wait for.
    pool.shutdown(wait=True)


def test_a_process_that_exits_finishes_what_was_submitted(tmp_path: Path) -> None:
    head = """
        bell = os.eventfd(0)
    """
    body = """
        future = deadpool.Deadpool(1, _bell=bell).submit(tasks.add, 4, 4)
        future.add_done_callback(lambda future: print(future.result(), flush=True))
    """
    assert run_script(tmp_path, body, head=head) == ("8\n", "")
