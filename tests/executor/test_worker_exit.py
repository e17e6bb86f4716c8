"""What a worker that exits voluntarily does before: all that an interpreter does, in its order."""

from __future__ import annotations

import time
from pathlib import Path

import tasks
from pools import MakePool
from processes import run_script


def test_threads_of_tasks_are_joined(
    make_pool: MakePool, start_method: str, tmp_path: Path
) -> None:
    pool = make_pool(mp_context=start_method, max_tasks_per_child=1, kill_grace_period=2.0)
    written = tmp_path / "written"
    pool.submit(tasks.write_behind, written, 0.3).result(20)
    pool.shutdown()
    assert written.read_text() == "all of it"


def test_a_thread_that_never_ends_is_not_waited_for(make_pool: MakePool) -> None:
    pool = make_pool(kill_grace_period=0.05)
    pool.submit(tasks.leave_a_thread).result(20)
    began = time.monotonic()
    pool.shutdown()
    assert time.monotonic() - began < 5


def test_an_executor_that_a_task_left_open_is_shut_down(
    make_pool: MakePool, start_method: str, tmp_path: Path
) -> None:
    pool = make_pool(mp_context=start_method, daemon=False)
    ended = tmp_path / "ended"
    pool.submit(tasks.leave_executors, ended).result(30)
    began = time.monotonic()
    pool.shutdown()
    # Children that nobody ends would be waited for for ten times the grace period.
    assert time.monotonic() - began < 6
    assert ended.read_text() == "exit handler"


def test_what_wraps_the_bootstrap_sees_the_end(tmp_path: Path) -> None:
    """As coverage does, which writes down what it has measured there."""
    out, _ = run_script(
        tmp_path,
        """
        with deadpool.Deadpool(1, mp_context="fork") as pool:
            pool.submit(tasks.nothing).result()
        print((here / "seen").read_text())
        """,
        head="""
        import multiprocessing.process
        original = multiprocessing.process.BaseProcess._bootstrap
        def wrapped(self, *args, **kwargs):
            try:
                return original(self, *args, **kwargs)
            finally:
                Path(sys.argv[1], "seen").write_text("seen")
        multiprocessing.process.BaseProcess._bootstrap = wrapped
        """,
    )
    assert out == "seen\n"


def test_the_exit_code_is_that_of_an_interpreter(make_pool: MakePool) -> None:
    told = []
    pool = make_pool(on_worker_down=lambda pid, exitcode: told.append(exitcode))
    pool.submit(tasks.nothing).result(20)
    pool.shutdown()
    assert told == [0]
