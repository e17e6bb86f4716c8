"""Forks: of the process that has the pool, and of a worker by its task."""

from __future__ import annotations

import multiprocessing
import os
import signal
import time
from pathlib import Path

import pytest
import tasks
from pools import MakePool
from processes import LONG_SECONDS, await_death, await_pid, is_alive, reap_orphans, run_script

import deadpool

pytestmark = pytest.mark.every_python


def test_a_fork_of_the_parent_gets_a_clear_error(tmp_path: Path, start_method: str) -> None:
    _, err = run_script(
        tmp_path,
        f"""
        pool = deadpool.Deadpool(2, mp_context={start_method!r})
        running = pool.submit(tasks.begin_and, here / "begun", tasks.sleep, 0.3)
        while not (here / "begun").exists():
            time.sleep(0.001)
        child = os.fork()
        if child == 0:
            for act in (
                lambda: pool.submit(tasks.nothing),
                lambda: pool.map(tasks.nothing, [1]),
                pool.shutdown,
                pool.get_statistics,
                pool.workers,
                pool.clear_workers,
            ):
                try:
                    act()
                except RuntimeError as error:
                    assert "process" in str(error), error
                else:
                    os._exit(7)
            running.cancel_and_kill_if_running()
            del pool, running
            import gc
            gc.collect()
            with deadpool.Deadpool(1) as own:
                assert own.submit(tasks.add, 1, 1).result() == 2
            os._exit(5)
        _, status = os.waitpid(child, 0)
        assert os.waitstatus_to_exitcode(status) == 5, status
        assert running.result() == 0.3
        assert pool.submit(tasks.add, 1, 1).result() == 2
        """,
    )
    assert err == ""


def test_a_fork_of_the_parent_exits_as_usual(tmp_path: Path) -> None:
    out, err = run_script(
        tmp_path,
        """
        pool = deadpool.Deadpool(1)
        pool.submit(tasks.nothing).result()
        child = os.fork()
        if child == 0:
            sys.exit(5)
        _, status = os.waitpid(child, 0)
        print(os.waitstatus_to_exitcode(status), pool.submit(tasks.add, 1, 1).result())
        """,
    )
    assert (out, err) == ("5 2\n", "")


def test_a_task_that_returns_twice_answers_once(make_pool: MakePool, start_method: str) -> None:
    pool = make_pool(mp_context=start_method)
    pid = pool.submit(tasks.getpid).result()
    for _ in range(3):
        assert pool.submit(tasks.return_twice).result() == "worker"
    assert isinstance(pool.submit(tasks.raise_twice).exception(), LookupError)
    assert pool.submit(tasks.getpid).result() == pid


def test_what_a_task_prints_is_not_lost(tmp_path: Path) -> None:
    out, _ = run_script(
        tmp_path,
        """
        with deadpool.Deadpool(1) as pool:
            pool.submit(print, "from a worker", end="").result()
        """,
    )
    assert out == "from a worker"


def test_a_daemon_of_a_task_that_returned_goes_with_its_worker(pool: deadpool.Deadpool) -> None:
    daemon = pool.submit(tasks.leave_daemon).result()
    assert is_alive(daemon)
    pool.shutdown()
    assert not is_alive(daemon)


def test_daemonic_workers_may_have_no_pools(pool: deadpool.Deadpool) -> None:
    error = pool.submit(tasks.make_pool).exception()
    assert isinstance(error, AssertionError)
    assert "daemonic processes are not allowed to have children" in str(error)


def test_pools_may_be_nested(make_pool: MakePool, start_method: str) -> None:
    pool = make_pool(mp_context=start_method, daemon=False)
    inner = "fork" if start_method == "fork" else "forkserver"
    assert pool.submit(tasks.sum_in_pool, inner, [1, 2, 3]).result() == 6


@pytest.mark.parametrize("inner", ["spawn", "fork"])
def test_nested_pools_start_as_they_like(make_pool: MakePool, inner: str) -> None:
    pool = make_pool(daemon=False)
    assert pool.submit(tasks.sum_in_pool, inner, [1, 2, 3]).result() == 6


def test_a_nested_pool_is_killed_with_its_task(
    make_pool: MakePool, begun: Path, release: Path
) -> None:
    pool = make_pool(daemon=False)
    future = pool.submit(tasks.hold_in_pool, begun, release, deadpool_timeout=1.5)
    inner = await_pid(begun)
    assert isinstance(future.exception(), deadpool.TimeoutError)
    await_death([inner])
    assert os.getpid() != pool.submit(tasks.getpid).result()


def test_a_fork_while_a_zygote_starts_does_not_hide_its_end(make_pool: MakePool) -> None:
    """The child has a copy of all that the parent has at that moment, and lives on."""
    context = multiprocessing.get_context("fork")
    for _ in range(5):
        pool = make_pool()
        child = context.Process(target=time.sleep, args=(600,))
        child.start()
        zygote, worker = pool.submit(os.getppid).result(), pool.submit(os.getpid).result()
        os.kill(zygote, signal.SIGKILL)
        pool.submit(os._exit, 1).exception()
        assert pool.submit(tasks.add, 1, 2).result(LONG_SECONDS) == 3
        reap_orphans([worker])
        child.kill()
        child.join()
        child.close()
