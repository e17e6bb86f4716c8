"""What workers are made with: initializers, finalizers, the environment, the serializer."""

from __future__ import annotations

import logging
import multiprocessing
import os
import pickle
import signal
import time
import types
from pathlib import Path
from typing import Any

import pytest
import tasks
from pools import MakePool
from processes import await_path, await_pid, eventually, run_script

import deadpool


def test_the_initializer_runs_before_the_first_task(make_pool: MakePool, start_method: str) -> None:
    pool = make_pool(
        mp_context=start_method, initializer=tasks.remember, initargs=("key", {"a": 1})
    )
    assert pool.submit(tasks.recall, "key").result() == {"a": 1}


def test_each_worker_is_initialized(make_pool: MakePool, tmp_path: Path) -> None:
    pool = make_pool(2, initializer=tasks.append, initargs=(tmp_path / "log", "x"))
    pool.submit(tasks.nothing).result()
    pool.clear_workers()
    pool.submit(tasks.nothing).result()
    eventually(lambda: len((tmp_path / "log").read_text()) >= 8)


@pytest.mark.parametrize("method", ["fork", "spawn"])
def test_a_queue_as_an_argument(make_pool: MakePool, method: str) -> None:
    context = multiprocessing.get_context(method)
    queue = context.Queue()
    pool = make_pool(mp_context=context, initializer=tasks.put_pid, initargs=(queue,))
    pid = queue.get(timeout=20)
    assert pool.submit(tasks.getpid).result() == pid
    pool.submit(tasks.put, "value").result()
    assert queue.get(timeout=20) == "value"
    pool.shutdown()
    queue.close()
    queue.join_thread()


def test_a_lambda_where_the_start_method_allows_it(make_pool: MakePool) -> None:
    pool = make_pool(mp_context="fork", initializer=lambda: tasks.remember("key", 7))
    assert pool.submit(tasks.recall, "key").result() == 7


@pytest.mark.parametrize("method", ["forkserver", "spawn"])
def test_an_initializer_that_cannot_be_pickled_is_refused(method: str) -> None:
    with pytest.raises((pickle.PicklingError, AttributeError)):
        deadpool.Deadpool(1, mp_context=method, initializer=lambda: None)


def test_arguments_that_cannot_be_pickled_fail_tasks_in_bounded_time(make_pool: MakePool) -> None:
    pool = make_pool(initializer=tasks.nothing, initargs=(lambda: None,))
    error = pool.submit(tasks.nothing).exception(30)
    assert isinstance(error, deadpool.ProcessError)
    assert "pickle" in str(error)


def test_a_failing_initializer_is_logged_and_the_worker_goes_on(tmp_path: Path) -> None:
    out, err = run_script(
        tmp_path,
        """
        error = LookupError("bad start")
        with deadpool.Deadpool(1, initializer=tasks.raise_, initargs=(error,)) as pool:
            print(pool.submit(tasks.add, 1, 1).result())
        """,
    )
    assert out == "2\n"
    assert "the initializer failed" in err
    assert "LookupError: bad start" in err


def test_a_failing_initializer_fails_a_task_where_that_is_wanted(
    make_pool: MakePool, start_method: str, tmp_path: Path
) -> None:
    cause = tmp_path / "cause"
    cause.touch()
    pool = make_pool(
        mp_context=start_method,
        initializer=tasks.raise_if,
        initargs=(cause,),
        on_initializer_error="fail",
    )
    error = pool.submit(tasks.touch, tmp_path / "marker").exception(20)
    assert isinstance(error, deadpool.ProcessError)
    assert isinstance(error.__cause__, LookupError)
    assert "the cause is there" in str(error)
    assert not (tmp_path / "marker").exists()
    cause.unlink()
    assert recovers(pool)


def recovers(pool: deadpool.Deadpool) -> bool:
    """Tell whether the pool works again, soon after the cause of its trouble has gone."""

    def works() -> bool:
        error = pool.submit(tasks.nothing).exception(20)
        assert error is None or isinstance(error, deadpool.ProcessError)
        return error is None

    return bool(eventually(works))


def test_an_initializer_that_kills_every_worker(
    make_pool: MakePool, start_method: str, tmp_path: Path
) -> None:
    cause = tmp_path / "cause"
    cause.touch()
    pool = make_pool(mp_context=start_method, initializer=tasks.die_if, initargs=(cause,))
    futures = [pool.submit(tasks.add, number, 1) for number in range(5)]
    begin = time.monotonic()
    for future in futures:
        error = future.exception(30)
        assert isinstance(error, deadpool.ProcessError)
        assert "no worker could be started" in str(error)
        assert "exit" in str(error)
    assert time.monotonic() - begin < 20
    assert pool.get_statistics()["worker_processes_created"] < 30, "it must back off"
    cause.unlink()
    assert recovers(pool)


def test_an_initializer_that_does_not_end_is_killed(make_pool: MakePool) -> None:
    pool = make_pool(initializer=tasks.spin, worker_start_timeout=0.2)
    error = pool.submit(tasks.nothing).exception(30)
    assert isinstance(error, deadpool.ProcessError)


def test_the_finalizer_runs_when_a_worker_goes(
    make_pool: MakePool, start_method: str, tmp_path: Path
) -> None:
    marker = tmp_path / "marker"
    pool = make_pool(mp_context=start_method, finalizer=tasks.touch, finalargs=(marker,))
    pid = pool.submit(tasks.getpid).result()
    assert not marker.exists()
    pool.shutdown()
    assert await_pid(marker) == pid


def test_the_finalizer_runs_for_each_replaced_worker(make_pool: MakePool, tmp_path: Path) -> None:
    log = tmp_path / "log"
    pool = make_pool(max_tasks_per_child=1, finalizer=tasks.append, finalargs=(log, "x"))
    for _ in range(3):
        pool.submit(tasks.nothing).result()
    pool.shutdown()
    assert log.read_text().split() >= ["x"] * 3


def test_a_failing_finalizer_hurts_nobody(tmp_path: Path) -> None:
    out, err = run_script(
        tmp_path,
        """
        error = LookupError("bad end")
        with deadpool.Deadpool(1, finalizer=tasks.raise_, finalargs=(error,)) as pool:
            pool.submit(tasks.nothing).result()
            pool.clear_workers()
            print(pool.submit(tasks.add, 1, 1).result())
        """,
    )
    assert out == "2\n"
    assert err.count("LookupError: bad end") == 2


# The environment.


@pytest.fixture
def mapping() -> dict[str, str]:
    return {"DEADPOOL_TEST": "first"}


def test_workers_get_the_mapping(
    make_pool: MakePool, start_method: str, mapping: dict[str, str]
) -> None:
    pool = make_pool(mp_context=start_method, propagate_environ=mapping)
    assert pool.submit(tasks.environ, "DEADPOOL_TEST").result() == "first"
    assert "DEADPOOL_TEST" not in os.environ


def test_an_unused_worker_sees_the_latest_state(
    make_pool: MakePool, mapping: dict[str, str]
) -> None:
    pool = make_pool(propagate_environ=mapping)
    eventually(lambda: [worker.state for worker in pool.workers()] == ["idle"])
    mapping["DEADPOOL_TEST"] = "second"
    assert pool.submit(tasks.environ, "DEADPOOL_TEST").result() == "second"
    mapping["DEADPOOL_TEST"] = "third"
    assert pool.submit(tasks.environ, "DEADPOOL_TEST").result() == "second"


def test_clearing_renews_the_environment(make_pool: MakePool, mapping: dict[str, str]) -> None:
    pool = make_pool(propagate_environ=mapping)
    assert pool.submit(tasks.environ, "DEADPOOL_TEST").result() == "first"
    mapping["DEADPOOL_TEST"] = "second"
    pool.clear_workers()
    assert pool.submit(tasks.environ, "DEADPOOL_TEST").result() == "second"
    del mapping["DEADPOOL_TEST"]
    pool.clear_workers()
    assert pool.submit(tasks.environ, "DEADPOOL_TEST").result() is None


def test_the_initializer_sees_the_environment(
    make_pool: MakePool, mapping: dict[str, str], tmp_path: Path
) -> None:
    make_pool(
        propagate_environ=mapping,
        initializer=tasks.write_environ,
        initargs=(tmp_path / "seen", "DEADPOOL_TEST"),
    )
    assert await_path(tmp_path / "seen") == "first"


def test_os_environ_as_the_mapping(make_pool: MakePool, monkeypatch: pytest.MonkeyPatch) -> None:
    pool = make_pool(propagate_environ=os.environ)
    monkeypatch.setenv("DEADPOOL_TEST", "set later")
    assert list(pool.map(tasks.environ, ["DEADPOOL_TEST"])) == ["set later"]


# The serializer.


def test_cloudpickle(make_pool: MakePool, start_method: str) -> None:
    cloudpickle = pytest.importorskip("cloudpickle")
    pool = make_pool(mp_context=start_method, serializer=cloudpickle)
    offset = 3
    assert pool.submit(lambda value: value + offset, 4).result() == 7
    assert list(pool.map(lambda value: value * 2, range(3), chunksize=2)) == [0, 2, 4]
    assert pool.submit(lambda: lambda: offset).result()() == 3

    class LocalError(Exception):
        pass

    def fail() -> None:
        raise LocalError("local")

    assert pool.submit(fail).exception().args == ("local",)


@pytest.mark.parametrize("bad", [object(), 1, "pickle"])
def test_a_serializer_has_two_functions(bad: object) -> None:
    with pytest.raises(TypeError, match="serializer"):
        deadpool.Deadpool(1, serializer=bad)


# The log.


def test_what_the_core_has_to_say_is_logged(
    make_pool: MakePool, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG, logger="deadpool")
    pool = make_pool()
    pid = pool.submit(tasks.getpid).result()
    pool.submit(tasks.kill_itself, 9).exception()
    pool.submit(tasks.spin, deadpool_timeout=0.1).exception()
    pool.shutdown()
    records = [record for record in caplog.records if record.name.startswith("deadpool")]
    text = [record.getMessage() for record in records]
    assert any(f"worker {pid} was started" in line for line in text)
    assert any(f"worker {pid} is gone" in line for line in text)
    assert {record.name.partition(".")[0] for record in records} == {"deadpool"}


def test_nothing_is_logged_where_all_is_well(
    make_pool: MakePool, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, logger="deadpool")
    pool = make_pool(2)
    assert list(pool.map(tasks.identity, range(10))) == list(range(10))
    pool.clear_workers()
    pool.submit(tasks.nothing).result()
    pool.shutdown()
    assert [r.getMessage() for r in caplog.records if r.name.startswith("deadpool")] == []


# Bad arguments.


@pytest.mark.parametrize(
    ("name", "value", "error"),
    [
        ("max_workers", 0, ValueError),
        ("max_workers", -1, ValueError),
        ("max_workers", 1.5, TypeError),
        ("max_workers", "2", TypeError),
        ("max_workers", True, TypeError),
        ("max_workers", 1 << 70, ValueError),
        ("min_workers", -1, ValueError),
        ("min_workers", "1", TypeError),
        ("max_tasks_per_child", 0, ValueError),
        ("max_tasks_per_child", -1, ValueError),
        ("max_tasks_per_child", 2.5, TypeError),
        ("max_worker_memory_bytes", 0, ValueError),
        ("max_worker_memory_bytes", 1e9, TypeError),
        ("mp_context", "threads", ValueError),
        ("mp_context", 3, TypeError),
        ("initializer", 3, TypeError),
        ("initargs", 3, TypeError),
        ("finalizer", "print", TypeError),
        ("finalargs", 3, TypeError),
        ("max_backlog", -1, ValueError),
        ("max_backlog", "10", TypeError),
        ("malloc_trim_rss_memory_threshold_bytes", -1, ValueError),
        ("malloc_trim_rss_memory_threshold_bytes", 1.5, TypeError),
        ("propagate_environ", 3, TypeError),
        ("propagate_environ", {"NAME": 3}, TypeError),
        ("on_initializer_error", "ignore", ValueError),
        ("kill_grace_period", -1, ValueError),
        ("kill_grace_period", "1", TypeError),
        ("kill_grace_period", None, TypeError),
        ("worker_idle_timeout", -0.1, ValueError),
        ("worker_idle_timeout", float("nan"), ValueError),
        ("worker_start_timeout", -1, ValueError),
        ("worker_start_timeout", -(10**400), ValueError),
        ("worker_start_timeout", [], TypeError),
    ],
)
def test_bad_arguments_are_refused_by_name(
    name: str, value: object, error: type[Exception]
) -> None:
    with pytest.raises(error, match=name):
        deadpool.Deadpool(**{"max_workers": 1, name: value})


def test_arguments_have_their_order() -> None:
    with pytest.raises(TypeError):
        deadpool.Deadpool(*[None] * 16)
    with pytest.raises(TypeError):
        deadpool.Deadpool(no_such_argument=1)


@pytest.mark.parametrize("name", ["kill_grace_period", "worker_idle_timeout"])
def test_periods_may_be_endless_or_nothing(make_pool: MakePool, name: str) -> None:
    for value in (0, float("inf"), 3):
        pool = make_pool(2, min_workers=1, **{name: value})
        assert pool.submit(tasks.add, 1, 1).result() == 2
        assert isinstance(pool.submit(tasks.exit_process, 1).exception(), deadpool.ProcessError)
        pool.shutdown()


def test_seconds_that_no_clock_can_count_mean_for_ever(make_pool: MakePool) -> None:
    pool = make_pool(worker_start_timeout=10**400, kill_grace_period=float("inf"))
    assert pool.submit(tasks.add, 1, 2, deadpool_timeout=10**400).result() == 3


def test_the_environment_is_as_it_is_when_a_worker_is_made(
    make_pool: MakePool, start_method: str
) -> None:
    mapping = {"LEVEL": "1"}
    pool = make_pool(mp_context=start_method, max_tasks_per_child=1, propagate_environ=mapping)
    futures = [pool.submit(os.getenv, "LEVEL") for _ in range(12)]
    futures[0].result()
    mapping["LEVEL"] = "2"
    assert [future.result() for future in futures][-4:] == ["2"] * 4


class Fickle(dict[str, str]):
    """A mapping that may break."""

    is_broken = False

    def keys(self) -> Any:
        if self.is_broken:
            raise LookupError("it broke")
        return super().keys()


def test_a_mapping_that_breaks_later_is_told_of_and_hangs_nothing(
    make_pool: MakePool, caplog: pytest.LogCaptureFixture
) -> None:
    mapping = Fickle(LEVEL="1")
    pool = make_pool(propagate_environ=types.MappingProxyType(mapping))
    worker = pool.submit(os.getpid).result()
    mapping.is_broken = True
    os.kill(worker, signal.SIGKILL)
    eventually(lambda: "it broke" in caplog.text)
    mapping.is_broken = False
    assert pool.submit(os.getenv, "LEVEL").result() == "1"


@pytest.mark.parametrize("mapping", [{"": "1", "A": "2"}, {"A=B": "1"}, {"A": "1\0"}, {"A\0": "1"}])
def test_what_no_environment_can_hold_is_refused(mapping: dict[str, str]) -> None:
    with pytest.raises(ValueError, match="propagate_environ must have names without '='"):
        deadpool.Deadpool(1, propagate_environ=mapping)
    good = {"A": "1"}
    with deadpool.Deadpool(1, propagate_environ=good) as pool:
        good.update(mapping)
        with pytest.raises(ValueError, match="propagate_environ must have names without '='"):
            pool.submit(os.getenv, "A")
