"""A call goes to a worker, and its result, its exception or its failure comes back."""

from __future__ import annotations

import concurrent.futures
import multiprocessing
import os
import pickle
import threading
import weakref
from concurrent.futures import ALL_COMPLETED, FIRST_COMPLETED, FIRST_EXCEPTION
from pathlib import Path

import pytest
import tasks
from pools import MakePool
from processes import await_pid, eventually

import deadpool

pytestmark = pytest.mark.every_python


def test_a_result_comes_back(make_pool: MakePool, start_method: str) -> None:
    pool = make_pool(mp_context=start_method)
    assert pool.submit(tasks.add, 1, 2).result() == 3
    assert pool.submit(tasks.getpid).result() != os.getpid()


def test_a_context_does_as_well_as_its_name(make_pool: MakePool, start_method: str) -> None:
    pool = make_pool(mp_context=multiprocessing.get_context(start_method))
    assert pool.submit(tasks.add, 1, right=2).result() == 3


def test_arguments_arrive_as_they_are(pool: deadpool.Deadpool) -> None:
    keywords = {"self": 1, "fn": 2, "args": 3, "timeout": 4}
    args, kwargs = pool.submit(tasks.echo, 1, None, x=[2], **keywords).result()
    assert args == (1, None)
    assert kwargs == {"x": [2], **keywords}


def test_arguments_are_as_they_were_when_submitted(
    pool: deadpool.Deadpool, begun: Path, release: Path
) -> None:
    pool.submit(tasks.hold, begun, release)
    value = [1]
    future = pool.submit(tasks.identity, value)
    value.append(2)
    release.touch()
    assert future.result() == [1]


@pytest.mark.parametrize("size", [0, 1, 8 * 1024, 64 * 1024, 300_000, 20_000_000])
def test_values_of_all_sizes_go_both_ways(pool: deadpool.Deadpool, size: int) -> None:
    value = os.urandom(size)
    assert pool.submit(tasks.identity, value).result() == value
    assert pool.submit(tasks.identity, bytearray(value)).result() == value


def test_arrays_go_both_ways_and_can_be_written(pool: deadpool.Deadpool) -> None:
    numpy = pytest.importorskip("numpy")
    array = numpy.arange(500_000, dtype="f8").reshape(500, 1000)
    result = pool.submit(tasks.add, array, 1).result()
    assert (result == array + 1).all()
    result[0, 0] = 7


def test_many_short_tasks(make_pool: MakePool, start_method: str) -> None:
    pool = make_pool(2, mp_context=start_method, max_backlog=None)
    futures = [pool.submit(tasks.add, number, number) for number in range(3000)]
    assert [future.result() for future in futures] == [2 * number for number in range(3000)]


def test_many_threads_submit(pool_of_two: deadpool.Deadpool) -> None:
    results: list[list[int]] = [[] for _ in range(16)]

    def work(mine: list[int]) -> None:
        mine.extend(pool_of_two.submit(tasks.add, number, 1).result() for number in range(40))

    threads = [threading.Thread(target=work, args=(mine,)) for mine in results]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert results == [list(range(1, 41))] * 16


def test_one_worker_runs_in_order(pool: deadpool.Deadpool, tmp_path: Path) -> None:
    log = tmp_path / "log"
    futures = [pool.submit(tasks.append, log, number) for number in range(200)]
    concurrent.futures.wait(futures)
    assert log.read_text().split() == [str(number) for number in range(200)]


# Exceptions.


def test_an_exception_keeps_its_type_and_arguments(make_pool: MakePool, start_method: str) -> None:
    pool = make_pool(mp_context=start_method)
    error = pool.submit(tasks.raise_, KeyError("key", 3)).exception()
    assert type(error) is KeyError
    assert error.args == ("key", 3)
    assert isinstance(error.__cause__, deadpool.RemoteTraceback)
    assert "tasks.py" in error.__cause__.tb
    assert "in raise_" in str(error.__cause__)


@pytest.mark.parametrize(
    "exception",
    [
        OSError(2, "not there", "name"),
        UnicodeDecodeError("utf-8", b"\xff", 0, 1, "bad"),
        StopIteration(5),
        AssertionError(),
        MemoryError("little"),
        RecursionError("deep"),
        KeyboardInterrupt("the task's own"),
        GeneratorExit(),
        tasks.OddBaseError("odd"),
        concurrent.futures.TimeoutError("the task's own"),
        deadpool.ProcessError("the task's own"),
    ],
    ids=lambda exception: type(exception).__name__,
)
def test_exceptions_of_all_kinds_arrive(pool: deadpool.Deadpool, exception: BaseException) -> None:
    error = pool.submit(tasks.raise_, exception).exception()
    assert type(error) is type(exception)
    assert error.args == exception.args
    assert str(error) == str(exception)
    assert pool.submit(tasks.add, 1, 1).result() == 2


def test_the_remote_traceback_tells_of_the_chain(pool: deadpool.Deadpool) -> None:
    error = pool.submit(tasks.raise_chained).exception()
    assert error is not None
    assert error.args == ("outer", 2)
    text = str(error.__cause__)
    assert "KeyError: 'inner'" in text
    assert "direct cause" in text


def test_an_exception_with_a_constructor_of_its_own(pool: deadpool.Deadpool) -> None:
    error = pool.submit(tasks.raise_picky).exception()
    assert isinstance(error, tasks.PickyError)
    assert error.args == ("not found (404)",)
    assert error.code == 404


def test_a_returned_exception_is_a_result(pool: deadpool.Deadpool) -> None:
    future = pool.submit(tasks.return_exception)
    assert isinstance(future.result(), ValueError)
    assert future.exception() is None


@pytest.mark.parametrize("code", [0, 1, 7, None, "a message"])
def test_sys_exit_ends_the_task_and_not_the_worker(pool: deadpool.Deadpool, code: object) -> None:
    pid = pool.submit(tasks.getpid).result()
    error = pool.submit(tasks.exit_interpreter, code).exception()
    assert isinstance(error, SystemExit)
    assert error.code == code
    assert pool.submit(tasks.getpid).result() == pid


def test_raising_again_does_not_lengthen_the_traceback(pool: deadpool.Deadpool) -> None:
    future = pool.submit(tasks.raise_, ValueError())
    lengths = set()
    for _ in range(3):
        with pytest.raises(ValueError) as caught:
            future.result()
        lengths.add(len(caught.traceback))
    assert len(lengths) == 1


# Pickling, at all four places.


def is_healthy(pool: deadpool.Deadpool) -> bool:
    return pool.submit(tasks.add, 1, 1).result() == 2


def test_a_call_that_cannot_be_pickled(pool: deadpool.Deadpool) -> None:
    future = pool.submit(tasks.identity, tasks.FailsPickling())
    assert isinstance(future.exception(), ZeroDivisionError)
    assert isinstance(pool.submit(lambda: None).exception(), (pickle.PicklingError, AttributeError))
    assert is_healthy(pool)


def test_a_call_that_cannot_be_unpickled(pool: deadpool.Deadpool) -> None:
    pid = pool.submit(tasks.getpid).result()
    error = pool.submit(tasks.identity, tasks.FailsUnpickling()).exception()
    assert isinstance(error, ZeroDivisionError)
    assert "fail_unpickling" in str(error.__cause__)
    assert pool.submit(tasks.getpid).result() == pid


def test_a_result_that_cannot_be_pickled(pool: deadpool.Deadpool) -> None:
    pid = pool.submit(tasks.getpid).result()
    assert isinstance(
        pool.submit(tasks.lambda_result).exception(), (pickle.PicklingError, AttributeError)
    )
    error = pool.submit(tasks.return_, tasks.FailsPickling).exception()
    assert isinstance(error, ZeroDivisionError)
    assert pool.submit(tasks.getpid).result() == pid


def test_a_result_that_cannot_be_unpickled(pool: deadpool.Deadpool) -> None:
    pid = pool.submit(tasks.getpid).result()
    error = pool.submit(tasks.return_, tasks.FailsUnpicklingInParent).exception()
    assert isinstance(error, ZeroDivisionError)
    assert error.args == ("not in this process",)
    assert pool.submit(tasks.getpid).result() == pid


def test_an_exception_that_cannot_be_pickled(pool: deadpool.Deadpool) -> None:
    error = pool.submit(tasks.raise_unpicklable).exception()
    assert isinstance(error, deadpool.ProcessError)
    assert "UnpicklableError" in str(error)
    assert "with a lambda" in str(error)
    assert is_healthy(pool)


def test_an_exception_that_cannot_be_unpickled(pool: deadpool.Deadpool) -> None:
    error = pool.submit(tasks.raise_unreadable).exception()
    assert isinstance(error, RuntimeError)
    assert error.args == ("can't be rebuilt",)
    assert "UnreadableError: lost" in str(error.__cause__)
    assert is_healthy(pool)


# With the functions of the standard library.


def test_wait_for_the_first_and_for_all(
    pool_of_two: deadpool.Deadpool, begun: Path, release: Path
) -> None:
    slow = pool_of_two.submit(tasks.hold, begun, release)
    fast = pool_of_two.submit(tasks.add, 1, 1)
    done, pending = concurrent.futures.wait([slow, fast], return_when=FIRST_COMPLETED)
    assert (done, pending) == ({fast}, {slow})
    failing = pool_of_two.submit(tasks.raise_, ValueError())
    done, pending = concurrent.futures.wait([slow, failing], return_when=FIRST_EXCEPTION)
    assert (done, pending) == ({failing}, {slow})
    done, pending = concurrent.futures.wait([slow], timeout=0.01)
    assert (done, pending) == (set(), {slow})
    release.touch()
    done, pending = concurrent.futures.wait([slow, fast], return_when=ALL_COMPLETED)
    assert (done, pending) == ({slow, fast}, set())


def test_as_completed_yields_in_the_order_of_the_ends(
    pool_of_two: deadpool.Deadpool, begun: Path, release: Path
) -> None:
    slow = pool_of_two.submit(tasks.hold, begun, release)
    fast = pool_of_two.submit(tasks.add, 1, 1)
    ends = deadpool.as_completed([slow, fast])
    assert next(ends) is fast
    release.touch()
    assert list(ends) == [slow]


def test_as_completed_times_out(pool: deadpool.Deadpool, begun: Path, release: Path) -> None:
    slow = pool.submit(tasks.hold, begun, release)
    with pytest.raises(concurrent.futures.TimeoutError):
        list(concurrent.futures.as_completed([slow], timeout=0.01))
    release.touch()


def test_waiting_for_a_result_times_out(
    pool: deadpool.Deadpool, begun: Path, release: Path
) -> None:
    future = pool.submit(tasks.hold, begun, release)
    for timeout in (0, 0.01):
        with pytest.raises(concurrent.futures.TimeoutError) as caught:
            future.result(timeout)
        assert not isinstance(caught.value, deadpool.TimeoutError)
        with pytest.raises(concurrent.futures.TimeoutError):
            future.exception(timeout)
    release.touch()
    assert future.result() == await_pid(begun)


def test_states_of_a_future(pool: deadpool.Deadpool, begun: Path, release: Path) -> None:
    running = pool.submit(tasks.hold, begun, release)
    waiting = pool.submit(tasks.nothing)
    await_pid(begun)
    eventually(running.running)
    assert not running.done()
    assert not waiting.running()
    assert not waiting.done()
    release.touch()
    running.result()
    waiting.result()
    assert running.done()
    assert waiting.done()
    assert not running.cancelled()
    assert isinstance(running, concurrent.futures.Future)
    assert isinstance(pool, concurrent.futures.Executor)


def test_done_callbacks_run_once_and_in_order(pool: deadpool.Deadpool) -> None:
    calls: list[tuple[int, object]] = []
    future = pool.submit(tasks.add, 1, 1)
    for number in range(3):
        future.add_done_callback(lambda done, number=number: calls.append((number, done)))
    eventually(lambda: len(calls) == 3)
    future.add_done_callback(lambda done: calls.append((3, done)))
    assert calls == [(number, future) for number in range(4)]


def test_a_callback_that_raises_is_logged_and_hurts_nobody(
    pool: deadpool.Deadpool, caplog: pytest.LogCaptureFixture, begun: Path, release: Path
) -> None:
    future = pool.submit(tasks.hold, begun, release)
    called = threading.Event()
    future.add_done_callback(lambda _: 1 / 0)
    future.add_done_callback(lambda _: called.set())
    release.touch()
    assert called.wait(20)
    assert "ZeroDivisionError" in caplog.text
    assert is_healthy(pool)


def test_a_callback_may_submit(pool: deadpool.Deadpool) -> None:
    second: list[deadpool.Future] = []
    first = pool.submit(tasks.add, 1, 1)
    first.add_done_callback(lambda done: second.append(pool.submit(tasks.add, done.result(), 1)))
    eventually(lambda: second)
    assert second[0].result() == 3


def test_arguments_and_results_are_let_go(pool: deadpool.Deadpool) -> None:
    class Value(dict):
        pass

    future = pool.submit(tasks.identity, {})
    future.result()
    reference = weakref.ref(future)
    del future
    eventually(lambda: reference() is None)
    value = threading.Event()
    gone = weakref.ref(value)
    refused = pool.submit(tasks.identity, value)
    assert isinstance(refused.exception(), TypeError)
    del value, refused
    eventually(lambda: gone() is None)


# Bad input.


@pytest.mark.parametrize("function", [None, 1, "print"])
def test_what_cannot_be_called_is_refused(pool: deadpool.Deadpool, function: object) -> None:
    with pytest.raises(TypeError, match="callable"):
        pool.submit(function)


def test_submit_wants_a_function(pool: deadpool.Deadpool) -> None:
    with pytest.raises(TypeError):
        pool.submit()


@pytest.mark.parametrize("name", ["deadpool_timout", "deadpool_", "deadpool_prioritty"])
def test_unknown_keywords_of_the_pool_are_refused(pool: deadpool.Deadpool, name: str) -> None:
    with pytest.raises(TypeError, match=name):
        pool.submit(tasks.echo, **{name: 1})
    with pytest.raises(TypeError, match=name):
        pool.map(tasks.echo, [1], **{name: 1})


@pytest.mark.parametrize(
    ("name", "value", "error"),
    [
        ("deadpool_timeout", -1, ValueError),
        ("deadpool_timeout", float("nan"), ValueError),
        ("deadpool_timeout", -(10**400), ValueError),
        ("deadpool_timeout", "1", TypeError),
        ("deadpool_timeout", True, TypeError),
        ("deadpool_soft_timeout", -0.1, ValueError),
        ("deadpool_soft_timeout", [], TypeError),
        ("deadpool_priority", -1, ValueError),
        ("deadpool_priority", 1.5, TypeError),
        ("deadpool_priority", "high", TypeError),
        ("deadpool_priority", 1 << 70, ValueError),
        ("deadpool_memory_limit_bytes", 0, ValueError),
        ("deadpool_memory_limit_bytes", -1, ValueError),
        ("deadpool_memory_limit_bytes", 1e9, TypeError),
        ("deadpool_retries", -1, ValueError),
        ("deadpool_retries", 0.5, TypeError),
    ],
)
def test_bad_limits_are_refused_by_name(
    pool: deadpool.Deadpool, name: str, value: object, error: type[Exception]
) -> None:
    with pytest.raises(error, match=name):
        pool.submit(tasks.nothing, **{name: value})
    with pytest.raises(error, match=name):
        pool.map(tasks.nothing, [1], **{name: value})
    assert pool.get_statistics()["tasks_received"] == 0


def test_a_worker_sleeps_once_for_a_task(make_pool: MakePool) -> None:
    # Not again because somebody has read what it sent: each time costs as much as a short task.
    def slept(pid: int) -> int:
        for line in Path(f"/proc/{pid}/status").read_text().splitlines():
            if line.startswith("voluntary_ctxt_switches"):
                return int(line.split()[1])
        raise AssertionError("the kernel does not say")

    pool = make_pool(1)
    pid = pool.submit(tasks.getpid).result()
    before, rounds = slept(pid), 1000
    for _ in range(rounds):
        assert pool.submit(tasks.getpid).result() == pid
    assert slept(pid) - before < 1.2 * rounds
