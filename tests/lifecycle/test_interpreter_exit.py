"""Pools that nobody shuts down: collected, left open at exit, or bereft of their process."""

from __future__ import annotations

import gc
import os
import signal
import sys
import weakref
from pathlib import Path

import pytest
import tasks
from pools import START_METHODS
from processes import (
    await_death,
    await_pid,
    await_pids,
    eventually,
    kill_session,
    reap_orphans,
    run_script,
    start_script,
    threads_of_pools,
    tree,
)

import deadpool

pytestmark = pytest.mark.every_python


def test_a_pool_that_is_dropped_finishes_and_ends(begun: Path, release: Path) -> None:
    pool = deadpool.Deadpool(1)
    reference = weakref.ref(pool)
    future = pool.submit(tasks.hold, begun, release)
    later = pool.submit(tasks.add, 1, 1)
    pid = await_pid(begun)
    del pool
    gc.collect()
    assert reference() is None
    release.touch()
    assert later.result(20) == 2
    assert future.result() == pid
    eventually(lambda: not threads_of_pools())
    await_death([pid], 5)


def test_an_unused_pool_that_is_dropped(start_method: str) -> None:
    for _ in range(3):
        deadpool.Deadpool(1, mp_context=start_method)
    gc.collect()
    eventually(lambda: not threads_of_pools())


def test_a_pool_in_a_cycle_is_collected() -> None:
    pool = deadpool.Deadpool(1)
    pool.itself = pool
    del pool
    gc.collect()
    eventually(lambda: not threads_of_pools())


@pytest.mark.parametrize("method", START_METHODS)
def test_work_is_finished_before_exit(tmp_path: Path, method: str) -> None:
    run_script(
        tmp_path,
        f"""
        pool = deadpool.Deadpool(1, mp_context={method!r})
        for number in range(5):
            pool.submit(tasks.append, here / "log", number)
        """,
    )
    assert (tmp_path / "log").read_text().split() == list("01234")


def test_pools_with_and_without_work_and_closed_ones_at_exit(tmp_path: Path) -> None:
    out, err = run_script(
        tmp_path,
        """
        global pools
        pools = [deadpool.Deadpool(1) for _ in range(3)]
        pools[0].submit(tasks.append, here / "log", 1).add_done_callback(
            lambda done: print("called", done.result()))
        pools[1].shutdown(wait=False)
        deadpool.Deadpool(1)
        """,
    )
    assert (tmp_path / "log").read_text() == "1\n"
    assert out == "called None\n"
    assert err == ""


def test_an_exit_handler_may_use_results_and_not_submit(tmp_path: Path) -> None:
    out, err = run_script(
        tmp_path,
        """
        import atexit
        pool = deadpool.Deadpool(1)
        future = pool.submit(tasks.add, 1, 1)
        def at_exit():
            print(future.result())
            try:
                pool.submit(tasks.nothing)
            except RuntimeError as error:
                print(type(error).__name__, error)
        atexit.register(at_exit)
        """,
    )
    result, refusal = out.splitlines()
    assert result == "2"
    assert "cannot schedule new futures after" in refusal
    assert err == ""


@pytest.mark.parametrize("is_first", [True, False])
def test_an_exit_handler_may_make_a_pool_where_threads_can_be_started(
    tmp_path: Path, start_method: str, is_first: bool
) -> None:
    out, err = run_script(
        tmp_path,
        f"""
        import atexit
        if not {is_first}:
            deadpool.Deadpool(1).shutdown()
        def at_exit():
            try:
                with deadpool.Deadpool(1, mp_context={start_method!r}) as pool:
                    print(pool.submit(tasks.add, 1, 1).result())
            except RuntimeError as error:
                print(error)
        atexit.register(at_exit)
        """,
    )
    # Python 3.12 starts no thread then, so there can be no pool.
    refused = sys.version_info >= (3, 12) and "thread" in out
    assert out == "2\n" or refused, out
    assert err == ""


def test_exit_after_an_exception(tmp_path: Path) -> None:
    process = start_script(
        tmp_path,
        """
        pool = deadpool.Deadpool(1)
        pool.submit(tasks.append, here / "log", 1)
        raise ZeroDivisionError
        """,
    )
    with process:
        _, err = process.communicate(timeout=40)
    assert process.returncode == 1
    assert err.rstrip().endswith("ZeroDivisionError")
    assert (tmp_path / "log").read_text() == "1\n"


def test_exit_with_a_backlog_that_is_full(tmp_path: Path) -> None:
    run_script(
        tmp_path,
        """
        pool = deadpool.Deadpool(1, max_backlog=2)
        def submit():
            try:
                while True:
                    pool.submit(tasks.sleep, 0.001)
            except RuntimeError:
                pass
        thread = threading.Thread(target=submit)
        thread.start()
        time.sleep(0.3)
        """,
    )


def test_exit_with_a_task_that_times_out(tmp_path: Path) -> None:
    out, _ = run_script(
        tmp_path,
        """
        pool = deadpool.Deadpool(1)
        future = pool.submit(tasks.spin, deadpool_timeout=0.2)
        future.add_done_callback(lambda done: print(type(done.exception()).__name__))
        """,
    )
    assert out == "TimeoutError\n"


TREES = ["start_child", "start_session", "start_daemon"]


@pytest.mark.parametrize(
    ("method", "kind"),
    [(method, "start_daemon") for method in START_METHODS]
    + [("forkserver", "start_child"), ("forkserver", "start_session")],
)
def test_nothing_outlives_a_killed_parent(tmp_path: Path, method: str, kind: str) -> None:
    process = start_script(
        tmp_path,
        f"""
        pool = deadpool.Deadpool(2, mp_context={method!r})
        pool.submit(tasks.{kind}, here / "begun")
        pool.submit(tasks.begin_and, here / "stuck", tasks.backtrack)
        time.sleep(3600)
        """,
    )
    with process:
        try:
            pids = {*await_pids(tmp_path / "begun"), *await_pids(tmp_path / "stuck")}
            pids |= tree(process.pid)
            os.kill(process.pid, signal.SIGKILL)
            process.wait()
            await_death(pids)
            reap_orphans(pids)
        finally:
            kill_session(process)


def test_a_stopped_worker_does_not_outlive_a_killed_parent(tmp_path: Path) -> None:
    process = start_script(
        tmp_path,
        """
        pool = deadpool.Deadpool(1)
        pool.submit(tasks.begin_and, here / "begun", tasks.stop_itself)
        time.sleep(3600)
        """,
    )
    with process:
        try:
            pids = {*await_pids(tmp_path / "begun")} | tree(process.pid)
            os.kill(process.pid, signal.SIGKILL)
            process.wait()
            await_death(pids)
            reap_orphans(pids)
        finally:
            kill_session(process)


def test_idle_workers_do_not_outlive_a_killed_parent(tmp_path: Path, start_method: str) -> None:
    process = start_script(
        tmp_path,
        f"""
        pool = deadpool.Deadpool(2, mp_context={start_method!r})
        pool.submit(tasks.nothing).result()
        tasks.touch(here / "begun")
        time.sleep(3600)
        """,
    )
    with process:
        try:
            await_pid(tmp_path / "begun")
            pids = tree(process.pid)
            os.kill(process.pid, signal.SIGKILL)
            process.wait()
            await_death(pids)
            reap_orphans(pids)
        finally:
            kill_session(process)


def test_ctrl_c_reaches_the_parent_alone(tmp_path: Path, start_method: str) -> None:
    process = start_script(
        tmp_path,
        f"""
        pool = deadpool.Deadpool(2, mp_context={start_method!r})
        future = pool.submit(tasks.begin_and, here / "begun", tasks.sleep, 1)
        other = pool.submit(tasks.sigint_handler)
        try:
            print(future.result())
        except KeyboardInterrupt:
            print("interrupted", flush=True)
        print(future.result(), other.result(), flush=True)
        """,
    )
    with process:
        try:
            await_pid(tmp_path / "begun")
            os.killpg(process.pid, signal.SIGINT)
            out, err = process.communicate(timeout=40)
        finally:
            kill_session(process)
    assert out == "interrupted\n1 True\n"
    assert err == ""


def test_ctrl_c_ends_a_submit_that_waits_for_room(tmp_path: Path) -> None:
    process = start_script(
        tmp_path,
        """
        with deadpool.Deadpool(1, max_backlog=1, shutdown_wait=False,
                               shutdown_cancel_futures=True) as pool:
            pool.submit(tasks.begin_and, here / "begun", tasks.sleep, 3600)
            while not (here / "begun").exists():
                time.sleep(0.001)
            pool.submit(tasks.nothing)
            threading.Timer(0.2, os.kill, (os.getpid(), signal.SIGINT)).start()
            try:
                pool.submit(tasks.nothing)
            except KeyboardInterrupt:
                print("interrupted")
        """,
    )
    with process:
        try:
            out, err = process.communicate(timeout=40)
        finally:
            kill_session(process)
    assert out == "interrupted\n"
    assert err == ""


def test_ctrl_c_ends_a_shutdown_that_waits(tmp_path: Path) -> None:
    process = start_script(
        tmp_path,
        """
        pool = deadpool.Deadpool(1)
        pool.submit(tasks.begin_and, here / "begun", tasks.sleep, 3600)
        while not (here / "begun").exists():
            time.sleep(0.001)
        threading.Timer(0.2, os.kill, (os.getpid(), signal.SIGINT)).start()
        try:
            pool.shutdown()
        except KeyboardInterrupt:
            print("interrupted", flush=True)
        pool.shutdown(wait=False, cancel_futures=True)
        """,
    )
    with process:
        try:
            out, err = process.communicate(timeout=40)
        finally:
            kill_session(process)
    assert out == "interrupted\n"
    assert err == ""
