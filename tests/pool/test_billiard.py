"""billiard's additions to ``deadpool.pool.Pool``."""

from __future__ import annotations

import multiprocessing
import os
import pickle
import signal
import subprocess
import sys
import textwrap
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pool_tasks
import pytest
import tasks
from processes import LONG_SECONDS, await_death, eventually

import deadpool
import deadpool.pool
from deadpool.pool import (
    Pool,
    PoolProcess,
    SoftTimeLimitExceeded,
    Terminated,
    TimeLimitExceeded,
    WorkerLostError,
)

EXCEPTIONS = (
    "RestartFreqExceeded",
    "SoftTimeLimitExceeded",
    "Terminated",
    "TimeLimitExceeded",
    "WorkerLostError",
)


def test_a_hard_limit_kills_and_tells(start_method: str) -> None:
    seen: list[Any] = []
    with Pool(1, context=multiprocessing.get_context(start_method)) as pool:
        pid = pool.apply(os.getpid)
        result = pool.apply_async(
            tasks.spin,
            timeout=0.2,
            error_callback=seen.append,
            timeout_callback=lambda **what: seen.append(what),
        )
        with pytest.raises(TimeLimitExceeded) as caught:
            result.get(LONG_SECONDS)
        assert isinstance(caught.value, deadpool.TimeoutError)
        assert caught.value.args == (0.2,)
        assert caught.value.pid == pid
        assert "timed out after 0.2 s" in str(caught.value)
        assert "spin" in str(caught.value)
        # The limit's callback comes after the error's.
        assert seen == [caught.value, {"soft": False, "timeout": 0.2}]
        await_death([pid])
        assert pool.apply(abs, (-1,)) == 1


def test_a_soft_limit_is_raised_in_the_task_and_told(start_method: str, tmp_path: Path) -> None:
    seen: list[Any] = []
    with Pool(1, context=multiprocessing.get_context(start_method)) as pool:
        # The limit counts from when the call is unpickled, which imports what it needs.
        pool.apply(pool_tasks.square, (1,))
        result = pool.apply_async(
            pool_tasks.catch_soft_limit,
            (tmp_path / "begun",),
            soft_timeout=0.2,
            timeout=60,
            callback=seen.append,
            timeout_callback=lambda **what: seen.append(what),
        )
        text = "cleaned up after SoftTimeLimitExceeded"
        assert result.get(LONG_SECONDS) == text
        assert seen == [{"soft": True, "timeout": 0.2}, text]
        with pytest.raises(SoftTimeLimitExceeded):
            pool.apply_async(time.sleep, (60,), soft_timeout=0.1).get(LONG_SECONDS)
        assert pool.apply(abs, (-1,)) == 1


def test_limits_of_the_pool_hold_for_all_calls() -> None:
    with Pool(1, timeout=0.3) as pool:
        sleeps = [60]
        for call in (
            lambda: pool.apply(time.sleep, (60,)),
            lambda: pool.apply_async(time.sleep, (60,)).get(),
            lambda: pool.map(time.sleep, sleeps),
            lambda: list(pool.imap(time.sleep, sleeps)),
            lambda: list(pool.imap_unordered(time.sleep, sleeps)),
        ):
            with pytest.raises(TimeLimitExceeded):
                call()
        # Each call may have its own.
        assert pool.apply_async(pool_tasks.sleep_and_return, (0.6, 1), timeout=60).get() == 1
    with Pool(1, soft_timeout=0.2) as pool, pytest.raises(SoftTimeLimitExceeded):
        pool.map(time.sleep, sleeps)


def test_a_limit_of_zero_means_at_once_or_the_pools() -> None:
    with Pool(1) as pool, pytest.raises(TimeLimitExceeded):
        pool.apply_async(time.sleep, (60,), timeout=0).get(LONG_SECONDS)
    with Pool(1, timeout=0, compat="billiard") as pool:
        assert pool.apply_async(pool_tasks.sleep_and_return, (0.1, 1), timeout=0).get() == 1


def test_timeout_hooks(tmp_path: Path) -> None:
    seen: list[Any] = []
    with Pool(
        1,
        on_timeout_set=lambda result, soft, hard: seen.append((result, soft, hard)),
        on_timeout_cancel=lambda result: seen.append(result),
    ) as pool:
        result = pool.apply_async(abs, (-1,), soft_timeout=30, timeout=60)
        result.get(LONG_SECONDS)
        assert seen == [(result, 30, 60), result]


def test_a_job_can_be_terminated_by_its_process(tmp_path: Path) -> None:
    with Pool(1) as pool:
        for number in (None, signal.SIGKILL):
            name = f"{number}"
            result = pool.apply_async(pool_tasks.hold_begun, (tmp_path, name))
            pid_file = tmp_path / f"begun-{name}"
            tasks.await_file(pid_file)
            eventually(result.accepted)
            (pid,) = result.worker_pids()
            pool.terminate_job(pid, number)
            with pytest.raises(Terminated) as caught:
                result.get(LONG_SECONDS)
            assert caught.value.args == (number or signal.SIGTERM,)
            assert caught.value.pid == pid
            assert isinstance(caught.value, multiprocessing.ProcessError)
        pool.terminate_job(1)  # Not one of ours.
        assert pool.apply(abs, (-1,)) == 1


def test_a_signal_that_there_is_not_marks_nothing(tmp_path: Path) -> None:
    with Pool(1) as pool:
        result = pool.apply_async(pool_tasks.hold_begun, (tmp_path, 1))
        tasks.await_file(tmp_path / "begun-1")
        eventually(result.accepted)
        (pid,) = result.worker_pids()
        for number in (0, -9, 999):
            with pytest.raises(ValueError, match="sig"):
                pool.terminate_job(pid, number)
            with pytest.raises(ValueError, match="signum"):
                result.terminate(number)
        os.kill(pid, signal.SIGKILL)
        with pytest.raises(WorkerLostError):
            result.get(LONG_SECONDS)


@pytest.mark.parametrize("signum", [None, signal.SIGKILL])
def test_a_result_can_be_terminated(tmp_path: Path, signum: int | None) -> None:
    with Pool(1) as pool:
        running = pool.apply_async(pool_tasks.hold_begun, (tmp_path, 1))
        waiting = pool.apply_async(tasks.touch, (tmp_path / "never",))
        tasks.await_file(tmp_path / "begun-1")
        for result in (waiting, running):
            result.terminate(signum)
            with pytest.raises(Terminated) as caught:
                result.get(LONG_SECONDS)
            assert caught.value.args == (signum or signal.SIGTERM,)
        assert pool.apply(abs, (-1,)) == 1
        assert not (tmp_path / "never").exists()


def test_processes_are_told_of() -> None:
    up: list[PoolProcess] = []
    down: list[PoolProcess] = []
    with Pool(2, on_process_up=up.append, on_process_down=down.append) as pool:
        pids = {process.pid for process in pool._pool}
        eventually(lambda: len(up) == 2)
        assert {process.pid for process in up} == pids
        assert {process.index for process in up} == {0, 1}
        assert pool.did_start_ok()
        with pytest.raises(WorkerLostError):
            pool.apply(tasks.exit_process, (7,))
        eventually(lambda: len(up) == 3 and len(down) == 1)
        assert down[0].exitcode == 7
        assert not down[0].is_alive()
        # The successor has its place.
        assert up[2].index == down[0].index
        assert not pool.did_start_ok()
        assert pool.did_start_ok()
    assert len(down) == 3


def test_callbacks_about_processes_may_fail_and_use_the_pool(
    caplog: pytest.LogCaptureFixture,
) -> None:
    seen: list[Any] = []
    known = threading.Event()

    def use(_process: PoolProcess) -> None:
        known.wait()
        seen.append(pool.apply(abs, (-1,)))
        raise OSError

    pool = Pool(1, on_process_up=use)
    known.set()
    eventually(lambda: seen)
    pool.close()
    pool.join()
    assert seen == [1]
    assert [record.name for record in caplog.records] == ["deadpool.pool"]
    caplog.clear()


def test_growing_and_shrinking(tmp_path: Path) -> None:
    with Pool(1) as pool:
        pool.grow()
        pool.grow(2)
        eventually(lambda: len(pool._pool) == 4)
        calls = [(tmp_path, n) for n in range(3)]
        result = pool.starmap_async(pool_tasks.hold_begun, calls, 1)
        for n in range(3):
            tasks.await_file(tmp_path / f"begun-{n}")
        with pytest.raises(ValueError, match="All processes busy"):
            pool.shrink(2)
        pool.shrink()
        eventually(lambda: len(pool._engine.processes.present()) == 3)
        with pytest.raises(ValueError, match="All processes busy"):
            pool.shrink()
        tasks.touch(tmp_path / "release")
        assert result.get(LONG_SECONDS) == [0, 1, 2]
        eventually(lambda: all(w.state == "idle" for w in pool._engine.executor.workers()))
        pool.shrink(2)
        eventually(lambda: len(pool._engine.processes.present()) == 1)
        with pytest.raises(ValueError, match="Can't shrink"):
            pool.shrink()
        assert pool.apply(abs, (-1,)) == 1


def test_threads_that_grow_and_shrink_at_the_same_time_agree() -> None:
    with Pool(4) as pool:

        def go_up_and_down() -> None:
            for _ in range(20):
                pool.grow(2)
                pool.apply(abs, (-1,))
                while True:
                    try:
                        pool.shrink(2)
                        break
                    except ValueError:
                        pass  # The others' workers are busy.

        with ThreadPoolExecutor(4) as threads:
            for turn in [threads.submit(go_up_and_down) for _ in range(4)]:
                turn.result(LONG_SECONDS)
        assert pool._processes == 4
        eventually(lambda: len(pool._engine.executor.workers()) == 4)
        assert pool.map(abs, range(100)) == list(range(100))


def test_restart_replaces_all_workers() -> None:
    with Pool(2) as pool:
        before = {process.pid for process in pool._pool}
        pool.restart()
        eventually(lambda: not before & {process.pid for process in pool._pool})
        assert pool.apply(abs, (-1,)) == 1
        pool.maintain_pool()


def test_a_worker_with_too_much_memory_is_replaced() -> None:
    with Pool(1, max_memory_per_child=1) as pool:
        assert len(set(pool.map(tasks.getpid, range(3), 1))) == 3


@pytest.mark.parametrize("foreign", [False, True])
def test_putlocks_hold_back_who_submits_too_much(tmp_path: Path, foreign: bool) -> None:
    semaphore = threading.Semaphore(1) if foreign else None
    with Pool(1, putlocks=True, semaphore=semaphore) as pool:
        first = pool.apply_async(pool_tasks.hold_begun, (tmp_path, 1))
        results: list[Any] = []
        submitting = threading.Thread(target=lambda: results.append(pool.apply_async(abs, (-1,))))
        submitting.start()
        tasks.await_file(tmp_path / "begun-1")
        submitting.join(0.2)
        assert submitting.is_alive()
        # This one does not care.
        free = pool.apply_async(abs, (-2,), waitforslot=False)
        tasks.touch(tmp_path / "release")
        submitting.join(LONG_SECONDS)
        assert [first.get(), results[0].get(), free.get()] == [1, 1, 2]
        for _ in range(50):
            pool.apply_async(abs, (-1,))
        with pytest.raises(TypeError):
            pool.apply_async(abs, (), {}, None, None, None, None, None, "soon").get()  # type: ignore[arg-type]
        assert pool.apply_async(abs, (-1,)).get(LONG_SECONDS) == 1


def test_what_compat_changes() -> None:
    seen: list[Any] = []
    pool = Pool(1, compat="billiard")
    result = pool.apply_async(pool_tasks.square_or_raise, (3,), error_callback=seen.append)
    with pytest.raises(KeyError):
        result.get(LONG_SECONDS)
    assert isinstance(seen[0].exception, KeyError)
    assert "KeyError" in str(seen[0].traceback)
    pool.close()
    assert pool.apply_async(abs, (-1,)) is None
    assert pool.map_async(abs, [-1]) is None
    assert pool.starmap_async(abs, [(-1,)]) is None
    pool.join()


@pytest.mark.parametrize("name", EXCEPTIONS)
def test_exceptions_survive_pickling(name: str) -> None:
    error = getattr(deadpool.pool, name)(3)
    copy = pickle.loads(pickle.dumps(error))
    assert type(copy) is type(error)
    assert copy.args == (3,)


@pytest.mark.parametrize("name", EXCEPTIONS)
def test_exceptions_stand_in_for_those_of_billiard(name: str) -> None:
    theirs = pytest.importorskip("billiard.exceptions")
    assert issubclass(getattr(deadpool.pool, name), getattr(theirs, name))


def test_a_task_catches_the_limit_by_billiards_name() -> None:
    pytest.importorskip("billiard.exceptions")
    with Pool(1, soft_timeout=1) as pool:
        assert pool.apply(pool_tasks.catch_soft_limit_of_billiard) == "caught"


def test_without_billiard_the_exceptions_stand_alone() -> None:
    script = """
        import sys
        sys.modules["billiard"] = None
        import deadpool, deadpool.pool, multiprocessing
        from deadpool._pool.errors import exception_info
        for name in sys.argv[1:]:
            error = getattr(deadpool.pool, name)(3)
            assert not any("billiard" in base.__module__ for base in type(error).__mro__)
        assert issubclass(deadpool.pool.WorkerLostError, multiprocessing.ProcessError)
        info = exception_info(KeyError(1))
        assert info.exc_info[0] is info.type is KeyError
        assert "KeyError" in str(info) and "KeyError" in repr(info)
    """
    command = [sys.executable, "-c", textwrap.dedent(script), *EXCEPTIONS]
    subprocess.run(command, check=True, timeout=30)
