"""``close``, ``terminate`` and ``join`` in every state; death, garbage collection, interpreter exit."""

from __future__ import annotations

import gc
import multiprocessing
import os
import signal
import subprocess
import sys
import textwrap
import threading
import time
import weakref
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pool_tasks
import pytest
import tasks
from processes import (
    LONG_SECONDS,
    SUPPORT,
    await_death,
    descriptors,
    eventually,
    reap_orphans,
    tree,
)

import deadpool
from deadpool.pool import Pool, Terminated, WorkerLostError


def test_a_death_fails_its_task_at_once_and_no_other(start_method: str) -> None:
    with Pool(2, context=multiprocessing.get_context(start_method)) as pool:
        pool.map(abs, range(10))
        results = [pool.apply_async(pool_tasks.square_or_die, (x,)) for x in range(6)]
        begun = time.monotonic()
        with pytest.raises(WorkerLostError) as caught:
            results[3].get(LONG_SECONDS)
        assert time.monotonic() - begun < 5
        error = caught.value
        assert isinstance(error, deadpool.ProcessError)
        assert isinstance(error, multiprocessing.ProcessError)
        assert error.signal == signal.SIGKILL
        assert error.exitcode == -signal.SIGKILL
        assert error.pid is not None
        assert "square_or_die" in str(error)
        values = [result.get() for i, result in enumerate(results) if i != 3]
        assert values == [0, 1, 4, 16, 25]
        with pytest.raises(WorkerLostError):
            pool.map(pool_tasks.square_or_die, range(6), 2)
        with pytest.raises(WorkerLostError):
            list(pool.imap(pool_tasks.square_or_die, range(6)))
        with pytest.raises(WorkerLostError) as caught:
            pool.apply(tasks.exit_process, (7,))
        assert caught.value.exitcode == 7


def test_the_death_of_an_idle_worker_is_nobodys_business() -> None:
    with Pool(1) as pool:
        pid = pool.apply(os.getpid)
        os.kill(pid, signal.SIGKILL)
        assert pool.apply(abs, (-1,)) == 1
        assert pool.apply(os.getpid) != pid


@pytest.mark.parametrize("end", ["close", "terminate"])
def test_a_pool_that_ended_takes_nothing(end: str) -> None:
    pool = Pool(1)
    with pytest.raises(ValueError, match="Pool is still running"):
        pool.join()
    getattr(pool, end)()
    calls: list[Callable[..., Any]] = [
        lambda: pool.apply(abs, (1,)),
        lambda: pool.apply_async(abs, (1,)),
        lambda: pool.map(abs, [1]),
        lambda: pool.map_async(abs, [1]),
        lambda: pool.starmap(abs, [(1,)]),
        lambda: pool.imap(abs, [1]),
        lambda: pool.imap_unordered(abs, [1]),
        lambda: pool.grow(),
        lambda: pool.__enter__(),
    ]
    for call in calls:
        with pytest.raises(ValueError, match="Pool not running"):
            call()
    for again in ("close", "join", "terminate", "close", "join", "join"):
        getattr(pool, again)()
    with pytest.raises(ValueError, match="Pool not running"), pool:
        pass


def test_close_lets_what_was_submitted_finish(start_method: str) -> None:
    pool = Pool(2, context=multiprocessing.get_context(start_method))
    results = [pool.apply_async(pool_tasks.sleep_and_return, (0.01, n)) for n in range(20)]
    pids = [process.pid for process in pool._pool]
    pool.close()
    pool.join()
    assert [result.get(0) for result in results] == list(range(20))
    await_death(pids, 0.1)


def test_close_alone_sends_the_workers_home() -> None:
    pool = Pool(2)
    pids = [process.pid for process in pool._pool]
    pool.apply(abs, (1,))
    pool.close()
    await_death(pids, LONG_SECONDS)
    pool.join()


def test_terminate_fails_what_has_not_ended(start_method: str, tmp_path: Path) -> None:
    pool = Pool(2, context=multiprocessing.get_context(start_method))
    seen: list[Any] = []
    running = pool.apply_async(pool_tasks.hold_begun, (tmp_path, 1))
    waiting = pool.map_async(time.sleep, [60] * 2000, 1, error_callback=seen.append)
    tasks.await_file(tmp_path / "begun-1")
    pids = [process.pid for process in pool._pool]
    begun = time.monotonic()
    pool.terminate()
    assert time.monotonic() - begun < 10
    await_death(pids, 0.1)
    for result in (running, waiting):
        with pytest.raises(Terminated, match="the pool was terminated"):
            result.get(LONG_SECONDS)
    assert len(seen) == 1
    assert isinstance(seen[0], Terminated)


def test_terminate_while_others_wait(tmp_path: Path) -> None:
    pool = Pool(1, putlocks=True)
    raised: list[BaseException] = []

    def catch(call: Callable[[], Any]) -> None:
        try:
            call()
        except BaseException as error:
            raised.append(error)

    first = pool.apply_async(pool_tasks.hold_begun, (tmp_path, 1))
    calls: list[Callable[[], Any]] = [
        first.get,
        lambda: pool.map(time.sleep, [60] * 3),
        lambda: pool.apply(time.sleep, (60,)),
        # These two are held back.
        lambda: pool.apply_async(time.sleep, (60,)),
        lambda: pool.apply_async(time.sleep, (60,)),
        lambda: list(pool.imap(time.sleep, [60] * 3)),
    ]
    threads = [threading.Thread(target=catch, args=(call,)) for call in calls]
    for thread in threads:
        thread.start()
    tasks.await_file(tmp_path / "begun-1")
    time.sleep(0.1)
    pool.terminate()
    for thread in threads:
        thread.join(LONG_SECONDS)
        assert not thread.is_alive()
    assert len(raised) == len(calls)
    assert {type(error) for error in raised} <= {Terminated, ValueError}


def test_terminate_during_join(tmp_path: Path) -> None:
    pool = Pool(1)
    pool.apply_async(pool_tasks.hold_begun, (tmp_path, 1))
    tasks.await_file(tmp_path / "begun-1")
    pool.close()
    joining = threading.Thread(target=pool.join)
    joining.start()
    pool.terminate()
    joining.join(LONG_SECONDS)
    assert not joining.is_alive()


def test_terminate_in_a_callback() -> None:
    pool = Pool(1)
    ended: list[str] = []

    def end(_value: int) -> None:
        pool.terminate()
        pool.join()
        ended.append("joined")

    pool.apply_async(abs, (-1,), callback=end).get(LONG_SECONDS)
    pool.join()
    assert ended == ["joined"]


def test_leaving_the_block_terminates(tmp_path: Path) -> None:
    with Pool(1) as pool:
        result = pool.apply_async(pool_tasks.hold_begun, (tmp_path, 1))
    with pytest.raises(Terminated):
        result.get(LONG_SECONDS)
    with pytest.raises(KeyError), Pool(1) as pool:
        raise KeyError


def test_a_collected_pool_warns_finishes_and_leaves_nothing() -> None:
    pool = Pool(2)
    pids = [process.pid for process in pool._pool]
    result = pool.apply_async(pool_tasks.sleep_and_return, (0.1, 1))
    gone = weakref.ref(pool)
    pools = [pool]
    del pool
    with pytest.warns(ResourceWarning, match="unclosed running multiprocessing pool"):
        pools.clear()
    gc.collect()
    assert gone() is None
    assert result.get(LONG_SECONDS) == 1
    await_death(pids, LONG_SECONDS)


def test_a_pool_that_failed_to_start_collects_in_silence() -> None:
    with pytest.raises(ValueError, match="at least 1"):
        Pool(0)
    gc.collect()


def test_pools_of_many_turns_leave_nothing() -> None:
    before = sum(descriptors().values()), threading.active_count()
    for _ in range(10):
        with Pool(2) as pool:
            assert pool.map(abs, range(-5, 0)) == [5, 4, 3, 2, 1]
    del pool
    eventually(lambda: threading.active_count() <= before[1])
    assert sum(descriptors().values()) <= before[0] + 1


def reap_adopted(known: set[int]) -> None:
    """Wait for what a program has left to us: its fork server, resource tracker and zygotes."""
    adopted = tree(os.getpid()) - known
    await_death(adopted)
    reap_orphans(adopted)


def run_script(script: str) -> subprocess.CompletedProcess[str]:
    known = tree(os.getpid())
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(script)],
        check=False,
        capture_output=True,
        text=True,
        timeout=30,
        env={**os.environ, "PYTHONPATH": str(SUPPORT), "PYTHONWARNINGS": "ignore"},
    )
    reap_adopted(known)
    return done


@pytest.mark.parametrize(
    "work",
    [
        "pool.map_async(time.sleep, [100] * 10)",
        "list(zip(range(3), pool.imap(abs, itertools.count())))",
        "pool.apply(abs, (1,))",
        "pool.apply_async(time.sleep, (100,)); pool.close()",
    ],
)
def test_a_pool_left_open_does_not_delay_the_interpreters_exit(
    work: str, start_method: str
) -> None:
    begun = time.monotonic()
    done = run_script(
        f"""
        import itertools, multiprocessing, time
        from deadpool.pool import Pool
        if __name__ == "__main__":
            pool = Pool(2, context=multiprocessing.get_context({start_method!r}))
            {work}
            print("end", flush=True)
        """
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "end\n", "")
    assert time.monotonic() - begun < 15


def test_threads_may_use_the_pool_after_the_main_thread() -> None:
    done = run_script(
        """
        import threading, time
        from deadpool.pool import Pool

        def work():
            threading.main_thread().join()
            time.sleep(0.2)
            print(pool.map(abs, range(-3, 0)))

        pool = Pool(2)
        threading.Thread(target=work).start()
        """
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "[3, 2, 1]\n", "")


def test_a_fork_of_the_program_cannot_use_or_harm_the_pool() -> None:
    with Pool(1) as pool:
        assert pool.apply(abs, (-1,)) == 1
        child = os.fork()
        if child == 0:
            code = 1
            try:
                pool.apply(abs, (-1,))
            except RuntimeError:
                code = 0
            finally:
                os._exit(code)
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
        assert pool.apply(abs, (-1,)) == 1


def test_ctrl_c_in_a_map_leaves_the_block(tmp_path: Path) -> None:
    marker = tmp_path / "begun-1"
    known = tree(os.getpid())
    process = subprocess.Popen(
        [
            sys.executable,
            "-c",
            textwrap.dedent(
                f"""
                import pathlib, pool_tasks, signal
                from deadpool.pool import Pool
                signal.signal(signal.SIGINT, signal.default_int_handler)
                with Pool(2) as pool:
                    pool.apply(pool_tasks.hold_begun, (pathlib.Path({str(tmp_path)!r}), 1))
                """
            ),
        ],
        env={**os.environ, "PYTHONPATH": str(SUPPORT)},
        stderr=subprocess.PIPE,
        text=True,
    )
    tasks.await_file(marker)
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=LONG_SECONDS)
    reap_adopted(known)
    assert process.returncode == -signal.SIGINT
    assert err.count("Traceback") == 1
    assert "KeyboardInterrupt" in err
