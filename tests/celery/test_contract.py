"""The contract of Celery's pools, called as Celery calls it, without a worker around it."""

from __future__ import annotations

import contextlib
import itertools
import os
import signal
import threading
import time
import weakref
from collections.abc import Iterator
from copy import copy
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import contract_config
import contract_tasks
import pytest
from celery import Celery
from celery.exceptions import (
    ImproperlyConfigured,
    SoftTimeLimitExceeded,
    Terminated,
    TimeLimitExceeded,
    WorkerLostError,
)
from celery.worker import state as worker_state
from celery.worker.request import Request
from kombu.asynchronous import Hub, set_event_loop
from kombu.asynchronous.semaphore import LaxBoundedSemaphore
from processes import await_death, await_rest, eventually, threads_of_pools

import deadpool.celery
from deadpool import PoolClosed
from deadpool._celery.callbacks import HubCalls
from deadpool._celery.executors import Executors
from deadpool.celery import TaskPool


def bare(error: Any) -> BaseException:
    """Return the exception below the traceback that billiard wraps around it."""
    wrapped: BaseException = getattr(error, "exc", error)
    return wrapped


class Told:
    """What a pool has told of a task, in order, and by which threads."""

    def __init__(self) -> None:
        self.all: list[tuple[str, Any]] = []
        self.threads: set[int] = set()

    def _add(self, name: str, value: Any) -> None:
        self.threads.add(threading.get_ident())
        self.all.append((name, value))

    def callbacks(self) -> dict[str, Any]:
        return {
            "callback": lambda value: self._add("done", value),
            "error_callback": lambda einfo: self._add("failed", bare(einfo.exception)),
            "accept_callback": lambda pid, at: self._add("accepted", (pid, at)),
            "timeout_callback": lambda soft, timeout: self._add("timed out", (soft, timeout)),
        }

    @property
    def names(self) -> list[str]:
        return [name for name, _ in self.all]

    def value(self, name: str) -> Any:
        (value,) = [value for other, value in self.all if other == name]
        return value


class InThread:
    """A pool as it is without an event loop."""

    def __init__(self, limit: int = 1, **options: Any) -> None:
        broker = options.pop("broker", "memory://")
        app = Celery("contract", broker=broker, set_as_current=False)
        app.conf.update(options.pop("config", {}))
        options.pop("configure", lambda _app: None)(app)
        app.conf.include = ["contract_tasks"]
        self.pool = TaskPool(
            limit, True, app=app, initargs=(app, "contract@host"), **self.options(limit), **options
        )
        self.pool.start()

    def options(self, limit: int) -> dict[str, Any]:
        return {"threads": True}

    def wait_for(self, condition: Any) -> None:
        eventually(condition)

    def apply(self, target: Any, *args: Any, **options: Any) -> tuple[Told, Any]:
        told = Told()
        job = self.pool.apply_async(target, args, **told.callbacks(), **options)
        return told, job

    def run(self, target: Any, *args: Any, **options: Any) -> Told:
        told, _job = self.apply(target, *args, **options)
        self.wait_for(lambda: {"done", "failed"} & set(told.names))
        return told

    def hand_over(self) -> None:
        """Have what was applied submitted, without waiting for what comes of it."""

    def check_thread(self, told: Told) -> None:
        assert len(told.threads) == 1
        assert told.threads != {threading.get_ident()}

    def end(self) -> None:
        self.pool.close()
        self.pool.terminate()


class InHub(InThread):
    """A pool as it is with an event loop."""

    def options(self, limit: int) -> dict[str, Any]:
        self.hub = set_event_loop(Hub())
        self.semaphore = LaxBoundedSemaphore(limit)
        return {"threads": False, "semaphore": self.semaphore}

    def __init__(self, limit: int = 1, **options: Any) -> None:
        super().__init__(limit, **options)
        self.pool.register_with_event_loop(self.hub)
        self.pool.putlocks = False

    def wait_for(self, condition: Any) -> None:
        deadline = time.monotonic() + 20
        while not condition():
            assert time.monotonic() < deadline
            self.hub.run_once()

    def hand_over(self) -> None:
        for callback in list(self.hub.on_tick):
            callback()

    def check_thread(self, told: Told) -> None:
        assert told.threads == {threading.get_ident()}

    def end(self) -> None:
        super().end()
        self.hub.close()


@pytest.fixture(params=[InThread, InHub], ids=["thread", "hub"])
def make(request: pytest.FixtureRequest) -> Iterator[Any]:
    made: list[InThread] = []

    def one(limit: int = 1, **options: Any) -> InThread:
        made.append(request.param(limit, **options))
        return made[-1]

    yield one
    for pool in made:
        pool.end()


def test_accepted_then_done(make: Any) -> None:
    pool = make()
    told = pool.run(contract_tasks.pid)
    assert told.names == ["accepted", "done"]
    pid, at = told.value("accepted")
    assert told.value("done") == pid != os.getpid()
    assert 0 <= time.monotonic() - at < 20
    pool.check_thread(told)


def test_an_event_loop_hears_of_results_without_another_thread() -> None:
    def completers() -> int:
        return sum(thread.name == "deadpool-completer" for thread in threading.enumerate())

    before = completers()
    pool = InHub()
    try:
        pool.check_thread(pool.run(contract_tasks.pid))
        assert completers() == before
        # One that was replaced is heard of, too.
        old, _ = pool.apply(contract_tasks.sleep, 0.3)
        pool.wait_for(lambda: old.names == ["accepted"])
        pool.pool.restart()
        assert pool.run(contract_tasks.pid).names == ["accepted", "done"]
        pool.wait_for(lambda: old.names == ["accepted", "done"])
        assert completers() == before
    finally:
        pool.end()
    assert completers() == before


def test_restarting_twice_loses_nothing(make: Any) -> None:
    pool = make()
    told, _ = pool.apply(contract_tasks.sleep, 0.3)
    pool.wait_for(lambda: told.names == ["accepted"])
    pool.pool.restart()
    (former,) = pool.pool._executors._former
    # The event loop is busy with something else.
    eventually(lambda: not former.workers())
    pool.pool.restart()
    pool.wait_for(lambda: told.names == ["accepted", "done"])
    pool.wait_for(lambda: not former._threads._going)
    pool.pool.restart()
    assert former not in pool.pool._executors._former


def test_what_is_raised_outside_of_a_task(make: Any) -> None:
    pool = make()
    for error in (SystemExit(3), MemoryError("no"), KeyboardInterrupt(), ValueError("why")):
        told = pool.run(contract_tasks.raise_it, error)
        assert told.names == ["accepted", "failed"]
        assert type(told.value("failed")) is type(error)
        assert told.value("failed").args == error.args


def test_soft_limit(make: Any) -> None:
    pool = make()
    told = pool.run(contract_tasks.sleep, 60, soft_timeout=0.1)
    assert sorted(told.names) == ["accepted", "failed", "timed out"]
    assert told.value("timed out") == (True, 0.1)
    assert type(told.value("failed")) is SoftTimeLimitExceeded
    pool.check_thread(told)


def test_hard_limit(make: Any) -> None:
    pool = make()
    told = pool.run(contract_tasks.sleep, 60, timeout=0.1)
    pool.wait_for(lambda: len(told.all) == 3)
    assert told.names == ["accepted", "failed", "timed out"]
    assert type(told.value("failed")) is TimeLimitExceeded
    assert told.value("failed").args[0] == 0.1
    assert told.value("timed out") == (False, 0.1)
    await_death([told.value("accepted")[0]])


@pytest.mark.parametrize("limit", [-1, float("nan"), "5", [1]], ids=str)
@pytest.mark.parametrize("name", ["timeout", "soft_timeout"])
def test_wrong_limit_of_a_call_is_a_failure_of_the_task(make: Any, name: str, limit: Any) -> None:
    pool = make()
    told = pool.run(contract_tasks.pid, **{name: limit})
    assert told.names == ["accepted", "failed"]
    assert f"deadpool_{name} must be" in str(told.value("failed"))
    pool.check_thread(told)
    # It holds no place.
    assert pool.run(contract_tasks.pid).names == ["accepted", "done"]


@pytest.mark.parametrize("priority", [-(2**40), 2**40, float("inf"), float("nan"), "high"])
@pytest.mark.parametrize("broker", ["memory://", "redis://localhost"])
def test_any_priority_of_a_message_will_do(
    make: Any, tmp_path: Path, broker: str, priority: Any
) -> None:
    pool = make(broker=broker)
    args = ("task", "id", {"delivery_info": {"priority": priority}}, tmp_path / "order")
    assert pool.run(contract_tasks.note_call, *args).names == ["accepted", "done"]


def test_death(make: Any) -> None:
    pool = make()
    told = pool.run(contract_tasks.die)
    assert told.names == ["accepted", "failed"]
    assert type(told.value("failed")) is WorkerLostError
    assert "signal 9 (SIGKILL)" in str(told.value("failed"))
    assert pool.run(contract_tasks.pid).names == ["accepted", "done"]


def test_terminate_job(make: Any) -> None:
    pool = make()
    told, job = pool.apply(contract_tasks.sleep, 60)
    assert weakref.ref(job)() is job
    pool.wait_for(lambda: told.names == ["accepted"])
    pool.pool.terminate_job(told.value("accepted")[0], signal.SIGKILL)
    pool.wait_for(lambda: len(told.all) == 2)
    assert type(told.value("failed")) is Terminated
    assert told.value("failed").args == (9,)


def test_what_has_ended_untold_is_neither_terminated_nor_in_the_way(make: Any) -> None:
    pool = make(2)
    told, _ = pool.apply(contract_tasks.sleep, 0.3)
    pool.wait_for(lambda: told.names == ["accepted"])
    executor = pool.pool._executors.executor
    eventually(lambda: {worker.state for worker in executor.workers()} == {"idle"})
    pool.pool.terminate_job(told.value("accepted")[0], signal.SIGKILL)
    running, _ = pool.apply(contract_tasks.sleep, 60)
    pool.pool.shrink()
    pool.wait_for(lambda: told.names == ["accepted", "done"])
    assert "failed" not in running.names


@pytest.mark.parametrize("is_handed_over", [False, True])
def test_terminate_before_it_begins(make: Any, is_handed_over: bool) -> None:
    pool = make()
    running, _ = pool.apply(contract_tasks.sleep, 60)
    pool.wait_for(lambda: running.names == ["accepted"])
    pool.pool.putlocks = False
    told, job = pool.apply(contract_tasks.pid)
    if is_handed_over:
        pool.hand_over()
    job.terminate(15)
    pool.wait_for(lambda: told.all)
    assert told.names == ["failed"]
    assert type(told.value("failed")) is Terminated


def test_sigusr1_is_a_soft_limit_and_harmless_between_tasks(make: Any, tmp_path: Path) -> None:
    pool = make()
    # As with prefork, what comes before the task's own code is not interrupted.
    told, _ = pool.apply(contract_tasks.note_and_wait, tmp_path / "begun")
    pool.wait_for(lambda: told.names == ["accepted"] and (tmp_path / "begun").exists())
    pid = told.value("accepted")[0]
    pool.pool.terminate_job(pid, signal.SIGUSR1)
    pool.wait_for(lambda: len(told.all) == 2)
    assert type(told.value("failed")) is SoftTimeLimitExceeded
    pool.pool.terminate_job(pid, signal.SIGUSR1)
    assert pool.run(contract_tasks.pid).value("done") == pid


@pytest.mark.parametrize("is_handed_over", [False, True])
def test_flush_drops_what_has_not_begun(make: Any, is_handed_over: bool) -> None:
    pool = make()
    running, _ = pool.apply(contract_tasks.sleep, 0.5)
    pool.wait_for(lambda: running.names == ["accepted"])
    pool.pool.putlocks = False
    dropped, _ = pool.apply(contract_tasks.pid)
    if is_handed_over:
        pool.hand_over()
    pool.pool.flush()
    pool.wait_for(lambda: running.names == ["accepted", "done"])
    assert pool.run(contract_tasks.pid).names == ["accepted", "done"]
    assert dropped.all == []


@pytest.mark.parametrize(
    ("broker", "order"),
    [("memory://", ["9", "5", "0", "None"]), ("redis://localhost", ["0", "None", "5", "9"])],
)
def test_what_waits_in_the_pool_goes_by_priority(
    make: Any, tmp_path: Path, broker: str, order: list[str]
) -> None:
    pool = make(broker=broker)
    running, _ = pool.apply(contract_tasks.note_and_wait, tmp_path / "begun")
    pool.wait_for(lambda: running.names == ["accepted"])
    pool.pool.putlocks = False
    told = []
    for priority in (0, None, 5, 9):
        args = ("task", "id", {"delivery_info": {"priority": priority}}, tmp_path / "order")
        told.append(pool.apply(contract_tasks.note_call, *args)[0])
    pool.wait_for(lambda: pool.pool._executors.executor._waiting() == 4)
    pool.pool.terminate_job(running.value("accepted")[0], signal.SIGKILL)
    pool.wait_for(lambda: all("done" in one.names for one in told))
    assert (tmp_path / "order").read_text().split() == order


def test_stop_waits_for_what_was_submitted(make: Any) -> None:
    pool = make(2)
    told = [pool.apply(contract_tasks.sleep, 0.3)[0] for _ in range(2)]
    pids = pool.pool.info["processes"]
    pool.pool.close()
    pool.pool.stop()
    assert [one.names for one in told] == [["accepted", "done"]] * 2
    await_death(pids)
    assert pool.pool.apply_async(contract_tasks.pid) is None
    # As often as one likes, and in any order.
    pool.pool.stop()
    pool.pool.close()
    pool.pool.terminate()


class StopsWhenPickled:
    """What a signal handler does that comes amid the submission of a task."""

    def __init__(self, pool: TaskPool) -> None:
        self._pool = pool

    def __reduce__(self) -> tuple[Any, ...]:
        self._pool.stop()
        return float, ()


def test_stop_amid_a_submission(make: Any) -> None:
    pool = make()
    pids = pool.pool.info["processes"]
    told, _ = pool.apply(contract_tasks.sleep, StopsWhenPickled(pool.pool))
    assert told.names == ["accepted", "done"]
    await_death(pids)
    assert pool.pool.apply_async(contract_tasks.pid) is None


def test_stop_amid_a_stop(make: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    pool = make()
    told, _ = pool.apply(contract_tasks.sleep, 0.3)
    pool.hand_over()

    def stop_and_get() -> Any:
        # As a signal handler does, that comes when the waiting is about to begin.
        monkeypatch.undo()
        pool.pool.stop()
        return deadpool.celery.get_event_loop()

    monkeypatch.setattr(deadpool.celery, "get_event_loop", stop_and_get)
    pool.pool.stop()
    assert told.names == ["accepted", "done"]


def test_stop_amid_a_restart(make: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    pool = make()
    told, _ = pool.apply(contract_tasks.sleep, 0.3)
    pool.hand_over()
    make_executor = Executors._make

    def make_and_stop(executors: Executors) -> Any:
        # As a signal handler does.
        pool.pool.stop()
        return make_executor(executors)

    monkeypatch.setattr(Executors, "_make", make_and_stop)
    pool.pool.restart()
    assert told.names == ["accepted", "done"]
    assert pool.pool.info["processes"] == []


class OneRequest(Request):  # type: ignore[misc]
    """Celery's view of a task, so far as the pool looks at it."""

    id = "one"
    acknowledged = False

    def __init__(self, acks_late: bool) -> None:
        self._task = SimpleNamespace(acks_late=acks_late)
        self.cancelled: list[bool] = []

    @property
    def task(self) -> Any:
        return self._task

    def on_accepted(self, pid: int, _at: float) -> None:
        self.worker_pid = pid

    def cancel(self, pool: Any, signal: int | None = None, emit_retry: bool = True) -> None:
        self.cancelled.append(emit_retry)
        pool.terminate_job(self.worker_pid, signal)


@pytest.mark.parametrize("acks_late", [False, True])
def test_cold_stop_cancels_what_has_begun_untold(
    make: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, acks_late: bool
) -> None:
    pool = make()
    request = OneRequest(acks_late)
    pool.pool.apply_async(
        contract_tasks.note_and_wait,
        (tmp_path / "begun",),
        accept_callback=request.on_accepted,
    )
    pool.hand_over()
    eventually((tmp_path / "begun").exists)
    # Celery has cancelled all that it knows, which is nothing if its loop did not run.
    monkeypatch.setattr(worker_state, "should_terminate", True)
    pool.pool.stop()
    assert request.cancelled == [not acks_late]
    await_death([request.worker_pid])


@pytest.mark.parametrize("acks_late", [False, True])
def test_cold_stop_does_not_cancel_what_has_ended_untold(
    make: Any, monkeypatch: pytest.MonkeyPatch, acks_late: bool
) -> None:
    pool = make()
    request = OneRequest(acks_late)
    done: list[Any] = []
    pool.pool.apply_async(
        contract_tasks.sleep,
        (0.3,),
        accept_callback=request.on_accepted,
        callback=done.append,
    )
    pool.wait_for(lambda: request.worker_pid)
    # In a soft shutdown Celery sleeps, and its loop does not run.
    executor = pool.pool._executors.executor
    eventually(lambda: [worker.state for worker in executor.workers()] == ["idle"])
    monkeypatch.setattr(worker_state, "should_terminate", True)
    pool.pool.stop()
    assert request.cancelled == []
    assert len(done) == 1


def test_terminate_kills(make: Any) -> None:
    pool = make()
    told, _ = pool.apply(contract_tasks.sleep, 60)
    pool.wait_for(lambda: told.names == ["accepted"])
    pool.pool.terminate()
    await_death([told.value("accepted")[0]])
    # Nothing is said of it, so that its message goes back to the broker.
    assert told.names == ["accepted"]


def test_another_thread_may_terminate_what_no_loop_serves(make: Any) -> None:
    pool = make()
    told, _ = pool.apply(contract_tasks.sleep, 60)
    pool.wait_for(lambda: told.names == ["accepted"])
    thread = threading.Thread(target=pool.pool.terminate, daemon=True)
    thread.start()
    thread.join(20)
    assert not thread.is_alive()
    await_death([told.value("accepted")[0]])


def test_shrink_and_grow(make: Any) -> None:
    pool = make(2)
    told = [pool.apply(contract_tasks.sleep, 60)[0] for _ in range(2)]
    pool.wait_for(lambda: all(one.names == ["accepted"] for one in told))
    with pytest.raises(ValueError, match="All processes busy"):
        pool.pool.shrink(1)
    pool.pool.grow(2)
    assert pool.pool.num_processes == 4
    pool.pool.shrink(2)
    assert pool.pool.num_processes == 2
    assert all(one.names == ["accepted"] for one in told)


def test_a_callback_that_raises_is_logged(make: Any, caplog: pytest.LogCaptureFixture) -> None:
    pool = make()
    pool.pool.apply_async(contract_tasks.pid, (), callback=contract_tasks.raise_value_error)
    pool.wait_for(lambda: "a callback of a task failed" in caplog.text)
    assert pool.run(contract_tasks.pid).names == ["accepted", "done"]


def test_memory_error_of_a_callback_is_not_caught_by_the_hub() -> None:
    pool = InHub()
    try:
        pool.pool.apply_async(contract_tasks.pid, (), callback=contract_tasks.raise_memory_error)
        with pytest.raises(MemoryError):
            pool.wait_for(lambda: False)
        # What came with it is not lost.
        assert pool.run(contract_tasks.pid).names == ["accepted", "done"]
    finally:
        pool.end()


def test_interrupt_while_results_are_unpickled_loses_nothing() -> None:
    pool = InHub()
    try:
        old, _ = pool.apply(contract_tasks.interrupting)
        pool.hand_over()
        pool.pool.restart()
        new, _ = pool.apply(contract_tasks.sleep, 0)
        pool.hand_over()
        # Both have ended when the loop comes to it.
        for executor in (pool.pool._executors.executor, *pool.pool._executors._former):
            eventually(
                lambda executor=executor: not executor._running() and not executor._waiting()
            )
        with pytest.raises(KeyboardInterrupt):
            pool.wait_for(lambda: False)
        pool.wait_for(lambda: old.names == new.names == ["accepted", "done"])
    finally:
        pool.end()


def test_semaphore_is_released_once_a_task_and_grows_with_the_pool() -> None:
    pool = InHub(2)
    try:
        told: list[Told] = []
        for _ in range(6):
            pool.semaphore.acquire(lambda: told.append(pool.apply(contract_tasks.pid)[0]))
        assert len(told) == 2
        pool.wait_for(lambda: len(told) == 6 and all("done" in one.names for one in told))
        assert pool.semaphore.value == 2
        pool.pool.grow(1)
        assert pool.semaphore.value == 3
        pool.pool.shrink(1)
        assert pool.semaphore.value == 2
    finally:
        pool.end()


@pytest.fixture
def in_hub() -> Iterator[InHub]:
    pool = InHub()
    yield pool
    pool.end()


def test_an_event_loop_hands_over_when_all_else_of_its_turn_is_done(in_hub: InHub) -> None:
    executor = in_hub.pool._executors.executor
    in_hub.run(contract_tasks.pid)
    waiting: list[int] = []

    def look() -> None:
        waiting.append(executor._waiting())

    # As a transport does, which asks for the next message there.
    for _ in range(3):
        in_hub.hub.on_tick.add(lambda: look())
    # A lost connection is made anew.
    in_hub.pool.register_with_event_loop(in_hub.hub)
    await_rest()
    told, _ = in_hub.apply(contract_tasks.pid)
    look()
    in_hub.hand_over()
    assert waiting == [1, 1, 1, 1]
    eventually(lambda: not executor._waiting())
    in_hub.wait_for(lambda: told.names == ["accepted", "done"])


class Tick:
    """A callback of a turn, with a given place in a small set."""

    def __init__(self, place: int) -> None:
        self._place = place

    def __hash__(self) -> int:
        return self._place


def test_the_end_of_a_turn_comes_last_of_its_callbacks() -> None:
    calls = HubCalls(contextlib.nullcontext())
    for places in itertools.permutations(range(7), 3):
        ticks: set[Any] = {Tick(place) for place in places}
        ticks.add(calls._end_of_turn)
        assert list(copy(ticks))[-1] is calls._end_of_turn
    calls.close()


def test_an_event_loop_hands_over_at_once_what_takes_the_place_of_another(in_hub: InHub) -> None:
    executor = in_hub.pool._executors.executor
    told: list[Told] = []
    for _ in range(2):
        in_hub.semaphore.acquire(lambda: told.append(in_hub.apply(contract_tasks.pid)[0]))
    in_hub.hand_over()
    eventually(lambda: [worker.state for worker in executor.workers()] == ["idle"])
    await_rest()
    in_hub.pool._calls.run()
    eventually(lambda: len(told) == 2 and not executor._waiting())
    in_hub.wait_for(lambda: all("done" in one.names for one in told))


def test_stop_hands_over_what_is_left(in_hub: InHub) -> None:
    in_hub.run(contract_tasks.pid)
    await_rest()
    told, _ = in_hub.apply(contract_tasks.pid)
    in_hub.pool.stop()
    assert told.names == ["accepted", "done"]


@pytest.mark.parametrize("how", ["flush", "terminate", "cold stop"])
def test_nothing_begins_that_is_dropped_before_it_is_handed_over(
    in_hub: InHub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, how: str
) -> None:
    in_hub.pool.grow(3)
    in_hub.run(contract_tasks.pid)
    await_rest()
    request = {"delivery_info": {"priority": 0}}
    args = ("task", "id", request, tmp_path / "begun")
    told = [in_hub.apply(contract_tasks.note_call, *args)[0] for _ in range(50)]
    if how == "flush":
        in_hub.pool.flush()
        in_hub.run(contract_tasks.pid)
    elif how == "terminate":
        in_hub.pool.terminate()
    else:
        monkeypatch.setattr(worker_state, "should_terminate", True)
        in_hub.pool.stop()
    assert not (tmp_path / "begun").exists()
    assert [one.all for one in told] == [[]] * 50
    assert in_hub.pool._jobs == set()


def test_a_cold_stop_tells_of_what_was_terminated_before(
    in_hub: InHub, monkeypatch: pytest.MonkeyPatch
) -> None:
    in_hub.run(contract_tasks.pid)
    await_rest()
    told, job = in_hub.apply(contract_tasks.pid)
    job.terminate(15)
    monkeypatch.setattr(worker_state, "should_terminate", True)
    in_hub.pool.stop()
    assert type(told.value("failed")) is Terminated


@pytest.mark.parametrize("is_stopped", [False, True])
def test_what_a_signal_handler_raises_amid_a_submission_strands_nothing(
    in_hub: InHub, monkeypatch: pytest.MonkeyPatch, is_stopped: bool
) -> None:
    in_hub.run(contract_tasks.pid)
    await_rest()
    told = Told()

    def interrupt() -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(in_hub.pool._calls, "submitted", interrupt)
    with pytest.raises(KeyboardInterrupt):
        in_hub.pool.apply_async(contract_tasks.pid, (), **told.callbacks())
    if is_stopped:
        in_hub.pool.stop()
    else:
        in_hub.wait_for(lambda: told.all and told.names[-1] == "done")
    assert told.names == ["accepted", "done"]


def test_restart_loses_nothing_that_was_not_handed_over(in_hub: InHub) -> None:
    in_hub.run(contract_tasks.pid)
    await_rest()
    told, _ = in_hub.apply(contract_tasks.pid)
    in_hub.pool.restart()
    in_hub.wait_for(lambda: told.names == ["accepted", "done"])


def test_what_the_executor_refuses_is_raised_and_gives_its_place_back(in_hub: InHub) -> None:
    in_hub.pool._executors.cancel_waiting()
    with pytest.raises(PoolClosed):
        in_hub.semaphore.acquire(lambda: in_hub.apply(contract_tasks.pid))
    assert in_hub.semaphore.value == 1


def test_submitting_waits_for_a_place_without_an_event_loop() -> None:
    pool = InThread(1)
    try:
        began = time.monotonic()
        first, _ = pool.apply(contract_tasks.sleep, 0.3)
        second, _ = pool.apply(contract_tasks.pid)
        assert time.monotonic() - began > 0.3
        pool.wait_for(lambda: "done" in second.names)
        assert first.names == ["accepted", "done"]
    finally:
        pool.end()


@pytest.mark.parametrize(
    "configure",
    [
        lambda app: app.add_defaults({"result_expires": 77}),
        lambda app: app.add_defaults(lambda: {"result_expires": 77}),
        lambda app: (
            app.add_defaults({"result_expires": 1}),
            app.add_defaults({"result_expires": 77}),
        ),
        lambda app: app.config_from_object(contract_config),
        lambda app: app.config_from_object("contract_config"),
        lambda app: app.conf.update(result_expires=77),
    ],
    ids=["defaults", "lazy-defaults", "defaults-twice", "module", "name", "update"],
)
def test_configuration_is_that_of_the_parent(configure: Any) -> None:
    pool = InThread(configure=configure)
    try:
        assert pool.run(contract_tasks.setting, "result_expires").value("done") == 77
    finally:
        pool.end()


def test_registered_task_is_known_to_the_workers() -> None:
    pool = InThread(configure=lambda app: app.register_task(contract_tasks.Registered))
    try:
        assert "contract.registered" in pool.run(contract_tasks.task_names).value("done")
    finally:
        pool.end()


def test_app_that_cannot_be_pickled_is_refused_at_start() -> None:
    with pytest.raises(ImproperlyConfigured, match=r"can't be pickled.*deadpool_start_method"):
        InThread(config={"task_annotations": {"*": {"on_failure": lambda *_: None}}})
    # Nothing is left of it.
    eventually(lambda: "deadpool-celery-callbacks" not in threads_of_pools())
