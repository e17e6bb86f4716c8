"""Futures: the standard library's behaviour, kept, and what a pool's future adds to it."""

from __future__ import annotations

import asyncio
import concurrent.futures
import contextlib
import gc
import logging
import queue
import signal
import threading
import time
import traceback
import weakref
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import tasks
from processes import await_path, await_pid, eventually, is_alive

import deadpool

pytestmark = pytest.mark.every_python

LONG_SECONDS = 20.0


class Value:
    """Something that can be referred to weakly."""


class OddError(ValueError):
    pass


@pytest.fixture(params=[concurrent.futures.Future, deadpool.Future], ids=["stdlib", "deadpool"])
def make(request: pytest.FixtureRequest) -> Any:
    """Make a future without a pool: there ours must do what the standard library's does."""
    return request.param


@pytest.fixture
def alarm() -> Iterator[Callable[[float, Callable[[], None]], None]]:
    """Call a function in a signal handler, after a while."""
    before = signal.getsignal(signal.SIGALRM)

    def set_alarm(seconds: float, handler: Callable[[], None]) -> None:
        signal.signal(signal.SIGALRM, lambda *_: handler())
        signal.setitimer(signal.ITIMER_REAL, seconds)

    yield set_alarm
    signal.setitimer(signal.ITIMER_REAL, 0)
    signal.signal(signal.SIGALRM, before)


# Without a pool.


def test_is_a_standard_future() -> None:
    future = deadpool.Future()
    assert isinstance(future, concurrent.futures.Future)
    future.note = "users add attributes"
    assert vars(future) == {"note": "users add attributes"}


def test_states_of_a_future_that_finishes(make: Any) -> None:
    future = make()
    assert (future.done(), future.running(), future.cancelled()) == (False, False, False)
    assert future.set_running_or_notify_cancel()
    assert (future.done(), future.running(), future.cancelled()) == (False, True, False)
    assert not future.cancel()
    future.set_result(7)
    assert (future.done(), future.running(), future.cancelled()) == (True, False, False)
    assert future.result() == future.result(0) == 7
    assert future.exception() is None
    assert not future.cancel()


def test_states_of_a_future_that_is_cancelled(make: Any) -> None:
    future = make()
    assert future.cancel()
    assert future.cancel()
    assert future._state == "CANCELLED"
    for wait in (future.result, future.exception):
        with pytest.raises(concurrent.futures.CancelledError):
            wait()
    assert not future.set_running_or_notify_cancel()
    assert future._state == "CANCELLED_AND_NOTIFIED"


def test_what_has_ended_does_not_end_again(make: Any) -> None:
    future = make()
    future.set_result(1)
    with pytest.raises(concurrent.futures.InvalidStateError, match="FINISHED: <Future at 0x"):
        future.set_result(2)
    with pytest.raises(concurrent.futures.InvalidStateError):
        future.set_exception(ValueError())
    with pytest.raises(RuntimeError, match="unexpected state"):
        future.set_running_or_notify_cancel()
    assert future.result() == 1


def test_repr(make: Any) -> None:
    future = make()
    assert repr(future) == f"<Future at {id(future):#x} state=pending>"
    future.set_exception(ValueError())
    assert repr(future) == f"<Future at {id(future):#x} state=finished raised ValueError>"
    future = make()
    future.set_result([])
    assert repr(future) == f"<Future at {id(future):#x} state=finished returned list>"


@pytest.mark.parametrize("timeout", [0, -1, 0.01])
def test_time_runs_out(make: Any, timeout: float) -> None:
    for wait in (make().result, make().exception):
        with pytest.raises(concurrent.futures.TimeoutError):
            wait(timeout=timeout)


def test_a_timeout_is_a_number(make: Any) -> None:
    with pytest.raises(TypeError):
        make().result("soon")


def test_every_waiting_thread_wakes(make: Any) -> None:
    future = make()
    seen: list[Any] = []
    threads = [
        threading.Thread(target=lambda: seen.append(future.result(LONG_SECONDS))) for _ in range(4)
    ]
    for thread in threads:
        thread.start()
    future.set_result(1)
    for thread in threads:
        thread.join()
    assert seen == [1] * 4


def test_callbacks_run_once_and_in_order(make: Any) -> None:
    future, called = make(), []
    for number in range(3):
        future.add_done_callback(lambda future, number=number: called.append((future, number)))
    assert not called
    future.set_result(1)
    future.add_done_callback(lambda future: called.append((future, 3)))
    assert called == [(future, number) for number in range(4)]


def test_errors_in_callbacks_are_logged(make: Any, caplog: pytest.LogCaptureFixture) -> None:
    def fail(_: object) -> None:
        raise OddError

    future, called = make(), []
    future.add_done_callback(fail)
    future.add_done_callback(called.append)
    future.set_result(1)
    future.add_done_callback(fail)
    assert called == [future]
    found = [(record.name, record.levelno, record.getMessage()) for record in caplog.records]
    message = f"exception calling callback for {future!r}"
    assert found == [("concurrent.futures", logging.ERROR, message)] * 2
    assert all(record.exc_info and record.exc_info[0] is OddError for record in caplog.records)


def test_waiters_of_the_standard_library(make: Any) -> None:
    futures = [make() for _ in range(3)]
    timers = [
        threading.Timer(0.01, futures[2].set_result, [2]),
        threading.Timer(0.02, futures[0].set_exception, [OddError()]),
        threading.Timer(0.03, futures[1].set_result, [1]),
    ]
    for timer in timers:
        timer.start()
    done, _ = concurrent.futures.wait(futures, LONG_SECONDS, concurrent.futures.FIRST_COMPLETED)
    assert futures[2] in done
    done, _ = concurrent.futures.wait(futures, LONG_SECONDS, concurrent.futures.FIRST_EXCEPTION)
    assert futures[0] in done
    assert set(concurrent.futures.as_completed(futures, LONG_SECONDS)) == set(futures)
    for timer in timers:
        timer.join()


def test_raising_again_does_not_lengthen_the_traceback() -> None:
    future = deadpool.Future()
    future.set_exception(OddError())
    lengths = []
    for _ in range(3):
        with pytest.raises(OddError) as caught:
            future.result()
        lengths.append(len(traceback.extract_tb(caught.value.__traceback__)))
    assert lengths == [1] * 3


def test_nothing_keeps_what_a_future_held(make: Any) -> None:
    value, error = Value(), OddError()
    references = [weakref.ref(value), weakref.ref(error)]
    returned, raised = make(), make()
    returned.set_result(value)
    raised.set_exception(error)
    assert returned.result() is value
    with contextlib.suppress(OddError):
        raised.result()
    del value, error, returned
    assert references[0]() is None
    del raised
    gc.collect()
    assert references[1]() is None


def test_the_collector_sees_through_a_future(make: Any) -> None:
    future = make()
    future.myself = future
    future.add_done_callback(lambda _, future=future: None)
    with future._condition:
        future._waiters.append(future)
    reference = weakref.ref(future)
    del future
    gc.collect()
    assert reference() is None


def test_signal_handlers_run_while_a_thread_waits(alarm: Any) -> None:
    future = deadpool.Future()

    def interrupt() -> None:
        raise KeyboardInterrupt

    alarm(0.02, interrupt)
    with pytest.raises(KeyboardInterrupt):
        future.result(LONG_SECONDS)


def test_a_signal_handler_may_wait_for_the_same_future(alarm: Any) -> None:
    future, seen = deadpool.Future(), []

    def wait_in_here() -> None:
        with pytest.raises(concurrent.futures.TimeoutError):
            future.result(0.01)
        future.set_result(1)
        seen.append(future.result())

    alarm(0.02, wait_in_here)
    assert future.result(LONG_SECONDS) == 1
    assert seen == [1]


# Of a pool.


def test_result_and_exception(pool: deadpool.Deadpool) -> None:
    future = pool.submit(tasks.identity, [1])
    assert future.result(LONG_SECONDS) == [1]
    assert future.exception() is None
    future = pool.submit(tasks.raise_, OddError(1))
    assert type(future.exception(LONG_SECONDS)) is OddError
    with pytest.raises(OddError):
        future.result()


def test_many_threads_wait_for_one_task(pool: deadpool.Deadpool) -> None:
    for _ in range(50):
        future = pool.submit(tasks.identity, 1)
        seen: list[Any] = []
        threads = [
            threading.Thread(
                target=lambda future=future, seen=seen: seen.append(future.result(LONG_SECONDS))
            )
            for _ in range(3)
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert seen == [1] * 3


def test_threads_that_give_up_lose_no_outcome(pool: deadpool.Deadpool) -> None:
    def wait_shortly(future: deadpool.Future) -> None:
        with contextlib.suppress(concurrent.futures.TimeoutError):
            future.result(0.0002)

    for _ in range(300):
        future = pool.submit(tasks.identity, 1)
        threads = [threading.Thread(target=wait_shortly, args=[future]) for _ in range(2)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert future.result(LONG_SECONDS) == 1


def test_callbacks_of_tasks(pool: deadpool.Deadpool) -> None:
    called: list[Any] = []
    futures = [pool.submit(tasks.identity, number) for number in range(20)]
    for future in futures:
        future.add_done_callback(called.append)
    for future in futures:
        future.result(LONG_SECONDS)
    eventually(lambda: len(called) == 20)
    assert set(called) == set(futures)


@pytest.mark.parametrize("with_callbacks", [False, True])
def test_a_callback_may_wait_for_other_futures(
    pool: deadpool.Deadpool, with_callbacks: bool
) -> None:
    called: queue.SimpleQueue[Any] = queue.SimpleQueue()

    def wait_for_others(_future: Any) -> None:
        others = [pool.submit(abs, -number) for number in range(4)]
        if with_callbacks:
            for other in others:
                other.add_done_callback(lambda done: called.put(done.result()))
        called.put([other.result(20) for other in reversed(others)])

    for _ in range(20):
        pool.submit(abs, 0).add_done_callback(wait_for_others)
        numbers = sorted(called.get(timeout=20) for _ in range(4 * with_callbacks))
        assert numbers == [0, 1, 2, 3][: len(numbers)]
        assert called.get(timeout=20) == [3, 2, 1, 0]


def test_a_callback_may_wait_for_what_is_cancelled(begun: Path, release: Path) -> None:
    with deadpool.Deadpool(2) as pool:
        wait_for_what_is_cancelled(pool, begun, release)


def wait_for_what_is_cancelled(pool: deadpool.Deadpool, begun: Path, release: Path) -> None:
    running = pool.submit(tasks.hold, begun, release)
    await_pid(begun)
    waits = threading.Event()
    seen: queue.SimpleQueue[Any] = queue.SimpleQueue()

    def wait_for_running(_future: Any) -> None:
        waits.set()
        try:
            running.result(20)
        except concurrent.futures.CancelledError as error:
            seen.put(error)

    running.add_done_callback(lambda done: seen.put("called"))
    # It ends when it has its callback, so that this is not called here and now.
    gate = release.with_name("gate")
    pool.submit(tasks.await_file, gate).add_done_callback(wait_for_running)
    gate.touch()
    assert waits.wait(20)
    running.cancel()
    release.touch()
    others = [seen.get(timeout=20) for _ in range(2)]
    assert "called" in others
    assert any(isinstance(other, concurrent.futures.CancelledError) for other in others)


@pytest.mark.parametrize("error", [SystemExit, KeyboardInterrupt, GeneratorExit])
def test_a_callback_cannot_end_the_completer(
    pool: deadpool.Deadpool, caplog: pytest.LogCaptureFixture, error: type[BaseException]
) -> None:
    def leave(_: object) -> None:
        raise error

    gate = threading.Event()
    first = pool.submit(tasks.nothing)
    first.add_done_callback(lambda _: gate.wait(LONG_SECONDS))
    future = pool.submit(tasks.nothing)
    future.add_done_callback(leave)
    called: list[Any] = []
    future.add_done_callback(called.append)
    gate.set()
    eventually(lambda: called)
    assert pool.submit(tasks.identity, 2).result(LONG_SECONDS) == 2
    eventually(lambda: error.__name__ in caplog.text)
    # The record holds the traceback, that the completer's frame, and that the pool.
    caplog.clear()


def test_running_and_pid(pool: deadpool.Deadpool, begun: Path, release: Path) -> None:
    future = pool.submit(tasks.hold, begun, release)
    pid = int(await_path(begun))
    eventually(future.running)
    assert future.pid == pid
    assert not future.done()
    waiting = pool.submit(tasks.nothing)
    assert waiting.pid is None
    release.touch()
    future.result(LONG_SECONDS)
    assert not future.running()
    assert future.pid == pid


def test_pid_callbacks(
    pool: deadpool.Deadpool, caplog: pytest.LogCaptureFixture, begun: Path, release: Path
) -> None:
    def fail(_: object) -> None:
        raise OddError

    future = pool.submit(tasks.hold, begun, release)
    seen: list[tuple[str, int | None]] = []
    future.add_pid_callback(lambda future: seen.append(("first", future.pid)))
    future.add_pid_callback(fail)
    future.add_pid_callback(lambda future: seen.append(("second", future.pid)))
    pid = int(await_path(begun))
    eventually(lambda: len(seen) == 2)
    future.add_pid_callback(lambda future: seen.append(("at once", future.pid)))
    assert seen == [("first", pid), ("second", pid), ("at once", pid)]
    release.touch()
    future.result(LONG_SECONDS)
    assert [record.name for record in caplog.records if record.exc_info] == ["deadpool"]
    caplog.clear()


def test_a_pid_callback_of_a_short_task(pool: deadpool.Deadpool) -> None:
    for _ in range(50):
        future = pool.submit(tasks.nothing)
        seen: list[int | None] = []
        future.add_pid_callback(lambda future, seen=seen: seen.append(future.pid))
        future.result(LONG_SECONDS)
        eventually(lambda seen=seen: seen)
        assert seen == [future.pid]


def test_cancelling_tells_at_once(pool: deadpool.Deadpool, begun: Path, release: Path) -> None:
    blocker = pool.submit(tasks.hold, begun, release)
    await_path(begun)
    future = pool.submit(tasks.nothing)
    called: list[Any] = []
    future.add_done_callback(lambda _: called.append(threading.current_thread()))
    assert future.cancel()
    assert called == [threading.current_thread()]
    assert future._state == "CANCELLED_AND_NOTIFIED"
    assert next(concurrent.futures.as_completed([future], 0)) is future
    release.touch()
    blocker.result(LONG_SECONDS)


def test_cancelling_a_running_task(pool: deadpool.Deadpool, begun: Path, release: Path) -> None:
    future = pool.submit(tasks.hold, begun, release)
    pid = int(await_path(begun))
    assert future.cancel()
    with pytest.raises(deadpool.CancelledError):
        future.result()
    assert is_alive(pid)
    release.touch()
    # The worker goes on with the next task.
    assert pool.submit(tasks.getpid).result(LONG_SECONDS) == pid


def test_cancelling_wakes_a_waiter(pool: deadpool.Deadpool, begun: Path, release: Path) -> None:
    future = pool.submit(tasks.hold, begun, release)
    await_path(begun)
    seen: list[type[BaseException] | None] = []

    def wait() -> None:
        try:
            future.result(LONG_SECONDS)
        except BaseException as error:
            seen.append(type(error))

    thread = threading.Thread(target=wait)
    thread.start()
    future.cancel()
    thread.join()
    assert seen == [deadpool.CancelledError]
    release.touch()


@pytest.mark.parametrize("first", ["nothing", "cancel"])
def test_cancelling_and_killing(
    pool: deadpool.Deadpool, begun: Path, release: Path, first: str
) -> None:
    future = pool.submit(tasks.hold, begun, release)
    pid = int(await_path(begun))
    if first == "cancel":
        assert future.cancel()
    assert future.cancel_and_kill_if_running()
    assert future.cancelled()
    eventually(lambda: not is_alive(pid))
    assert pool.submit(tasks.identity, 1).result(LONG_SECONDS) == 1


def test_a_finished_task_is_neither_cancelled_nor_killed(pool: deadpool.Deadpool) -> None:
    future = pool.submit(tasks.getpid)
    pid = future.result(LONG_SECONDS)
    assert not future.cancel()
    assert not future.cancel_and_kill_if_running()
    assert pool.submit(tasks.getpid).result(LONG_SECONDS) == pid


def test_asyncio(pool: deadpool.Deadpool, begun: Path, release: Path) -> None:
    async def main() -> deadpool.Future:
        assert await asyncio.wrap_future(pool.submit(tasks.identity, 1)) == 1
        future = pool.submit(tasks.hold, begun, release)
        wrapped = asyncio.wrap_future(future)
        await asyncio.get_running_loop().run_in_executor(None, await_path, begun)
        wrapped.cancel()
        with pytest.raises(asyncio.CancelledError):
            await wrapped
        return future

    future = asyncio.run(main())
    eventually(future.cancelled)
    release.touch()


def test_ctrl_c_leaves_the_future_as_it_is(
    pool: deadpool.Deadpool, alarm: Any, begun: Path, release: Path
) -> None:
    def interrupt() -> None:
        raise KeyboardInterrupt

    future = pool.submit(tasks.hold, begun, release)
    await_path(begun)
    alarm(0.02, interrupt)
    with pytest.raises(KeyboardInterrupt):
        future.result(LONG_SECONDS)
    release.touch()
    assert future.result(LONG_SECONDS) == int(begun.read_text())


def test_an_interrupted_wait_is_no_longer_than_it_was_to_be(
    pool: deadpool.Deadpool, alarm: Any
) -> None:
    future, handled = deadpool.Future(), []
    alarm(0.02, lambda: handled.append(1))
    start = time.monotonic()
    with pytest.raises(concurrent.futures.TimeoutError):
        future.result(0.1)
    assert handled
    assert 0.1 <= time.monotonic() - start < 5


def test_a_dropped_future_goes_when_its_task_ends(pool: deadpool.Deadpool) -> None:
    future = pool.submit(tasks.nothing)
    reference = weakref.ref(future)
    del future
    pool.submit(tasks.nothing).result(LONG_SECONDS)
    eventually(lambda: reference() is None)
