"""Whatever a task has started: one second after its end by force, none of it is left."""

from __future__ import annotations

import os
import signal
import struct
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import hostile
import pytest
import tasks
from pools import START_METHODS, MakePool
from processes import (
    LONG_SECONDS,
    ORPHAN_SECONDS,
    await_death,
    await_pids,
    eventually,
    kill_session,
    reap_orphans,
    start_script,
    stat,
    tree,
)

import deadpool

TREES: dict[str, tuple[Callable[..., Any], tuple[Any, ...]]] = {
    "child": (tasks.start_child, ()),
    "session": (tasks.start_session, ()),
    "daemon": (tasks.start_daemon, ()),
    "stopped": (hostile.start_stopped_tree, ()),
    "sibling": (hostile.start_sibling, ()),
    "other user": (hostile.start_as_other_user, ()),
    "zombies": (hostile.start_zombies, (50,)),
    "forking": (hostile.keep_forking, ()),
}


def time_out(_pool: deadpool.Deadpool, future: deadpool.Future, _pid: int) -> None:
    assert isinstance(future.exception(20), deadpool.TimeoutError)


def cancel(_pool: deadpool.Deadpool, future: deadpool.Future, _pid: int) -> None:
    assert future.cancel_and_kill_if_running()


def crash(_pool: deadpool.Deadpool, future: deadpool.Future, pid: int) -> None:
    os.kill(pid, signal.SIGKILL)
    assert isinstance(future.exception(20), deadpool.ProcessError)


def shut_down(pool: deadpool.Deadpool, _future: deadpool.Future, _pid: int) -> None:
    pool.shutdown(wait=False, cancel_futures=True)


def kill_workers(pool: deadpool.Deadpool, _future: deadpool.Future, _pid: int) -> None:
    pool.kill_workers()


ENDS = [time_out, cancel, crash, shut_down, kill_workers]


def others() -> list[int]:
    """Return the live processes below this one that have left its session."""
    own = os.getsid(0)
    found = [(pid, stat(pid)) for pid in tree(os.getpid())]
    return [pid for pid, it in found if it and it.session != own and it.state not in "ZX"]


@pytest.mark.parametrize("end", ENDS, ids=lambda end: end.__name__)
@pytest.mark.parametrize("kind", TREES)
@pytest.mark.parametrize("method", START_METHODS)
def test_nothing_survives(
    make_pool: MakePool,
    method: str,
    kind: str,
    end: Callable[[deadpool.Deadpool, deadpool.Future, int], None],
    begun: Path,
) -> None:
    pool = make_pool(mp_context=method)
    function, arguments = TREES[kind]
    limit = {"deadpool_timeout": 1.5} if end is time_out else {}
    future = pool.submit(function, begun, *arguments, **limit)
    pids = eventually(lambda: begun.exists() and await_pids(begun))
    end(pool, future, pids[0])
    await_death(pids)
    eventually(lambda: not others(), ORPHAN_SECONDS)


@pytest.mark.parametrize("method", START_METHODS)
def test_nothing_that_a_task_left_runs_when_its_future_fails(
    make_pool: MakePool, method: str, tmp_path: Path
) -> None:
    marks = tmp_path / "marks"
    marks.write_bytes(bytes(8 * 60))
    future = make_pool(mp_context=method).submit(tasks.leave_many, 60, marks, 0.005)
    assert isinstance(future.exception(LONG_SECONDS), deadpool.ProcessError)
    failed_ns = time.monotonic_ns()
    time.sleep(0.1)
    assert max(struct.unpack("60q", marks.read_bytes())) <= failed_ns


def test_a_task_may_leave_very_many(make_pool: MakePool, tmp_path: Path) -> None:
    marks = tmp_path / "marks"
    marks.write_bytes(bytes(8 * 600))
    # More often, and so many would leave no processor time.
    future = make_pool().submit(tasks.leave_many, 600, marks, 0.1)
    error = future.exception(LONG_SECONDS)
    assert isinstance(error, deadpool.ProcessError)
    assert error.signal == signal.SIGKILL
    assert error.rss_bytes is not None

    def has_stopped() -> bool:
        before = marks.read_bytes()
        time.sleep(0.3)
        return marks.read_bytes() == before

    eventually(has_stopped)


@pytest.mark.parametrize("kind", ["stopped", "sibling", "zombies", "forking"])
@pytest.mark.parametrize("method", START_METHODS)
def test_nothing_survives_a_killed_parent(tmp_path: Path, method: str, kind: str) -> None:
    function, arguments = TREES[kind]
    process = start_script(
        tmp_path,
        f"""
        import hostile
        pool = deadpool.Deadpool(2, mp_context={method!r})
        pool.submit(hostile.{function.__name__}, here / "begun", *{arguments!r})
        time.sleep(3600)
        """,
    )
    with process:
        try:
            begun = tmp_path / "begun"
            pids = {*eventually(lambda: begun.exists() and await_pids(begun))}
            pids |= tree(process.pid)
            os.kill(process.pid, signal.SIGKILL)
            process.wait()
            await_death(pids)
            eventually(lambda: not others(), ORPHAN_SECONDS)
            reap_orphans(pids)
        finally:
            kill_session(process)
