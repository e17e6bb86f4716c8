"""Descriptors and processes that can't be had: nobody running is hit, and the pool recovers."""

from __future__ import annotations

import contextlib
import errno
import multiprocessing
import os
import resource
import signal
from pathlib import Path

import pytest
import tasks
from control_groups import control_group
from pools import MakePool
from processes import await_death, await_pid, await_pids, descriptors, eventually, run_script, stat

import deadpool
from deadpool._child import fork


def limit_descriptors(pid: int, count: int) -> tuple[int, int]:
    """Let a process have no more than so many descriptors; return what it could have before."""
    before = resource.prlimit(pid, resource.RLIMIT_NOFILE)
    resource.prlimit(pid, resource.RLIMIT_NOFILE, (count, before[1]))
    return before


def test_a_zygote_without_descriptors_hits_no_worker_that_runs(
    make_pool: MakePool, begun: Path, release: Path, caplog: pytest.LogCaptureFixture
) -> None:
    pool = make_pool()
    future = pool.submit(tasks.hold, begun, release)
    pid = await_pid(begun)
    before = limit_descriptors(parent(pid), 3)
    pool.resize(2)
    eventually(lambda: "could not be started" in caplog.text)
    resource.prlimit(parent(pid), resource.RLIMIT_NOFILE, before)
    release.touch()
    assert future.result(20) == pid
    assert pool.submit(tasks.add, 1, 1).result(20) == 2


def test_a_zygote_without_descriptors_leaves_nobody_behind(
    pool: deadpool.Deadpool, begun: Path
) -> None:
    future = pool.submit(tasks.start_daemon, begun)
    pid, daemon = await_pids(begun)
    limit_descriptors(parent(pid), 3)
    os.kill(pid, signal.SIGKILL)
    assert isinstance(future.exception(20), deadpool.ProcessError)
    await_death([pid, daemon])


def test_a_zygote_that_ends_without_descriptors_leaves_nobody_behind(
    pool: deadpool.Deadpool, begun: Path
) -> None:
    pool.submit(tasks.start_daemon, begun)
    pid, daemon = await_pids(begun)
    limit_descriptors(parent(pid), 3)
    pool.shutdown(wait=False, cancel_futures=True)
    await_death([pid, daemon])


def test_a_parent_without_descriptors_recovers(
    make_pool: MakePool, start_method: str, caplog: pytest.LogCaptureFixture
) -> None:
    pool = make_pool(mp_context=start_method)
    pid = pool.submit(tasks.getpid).result()
    ours = os.getpid()
    before = limit_descriptors(ours, 3)
    try:
        os.kill(pid, signal.SIGKILL)
        eventually(lambda: "could not be started" in caplog.text)
    finally:
        resource.prlimit(ours, resource.RLIMIT_NOFILE, before)
    assert pool.submit(tasks.add, 1, 1).result(20) == 2


@pytest.mark.parametrize("room", [1, 2, 3])
def test_a_fork_that_fails_leaves_no_pipes(room: int) -> None:
    context = multiprocessing.get_context("fork")
    process = context.Process(target=tasks.nothing)
    with contextlib.ExitStack() as taken:
        lowest = os.open("/dev/null", os.O_RDONLY)
        taken.callback(os.close, lowest)
        # Fill the gaps, so that the limit says how many there may be.
        while lowest < 200:
            lowest = os.dup(lowest)
            taken.callback(os.close, lowest)
        before = descriptors()
        old = limit_descriptors(os.getpid(), lowest + 1 + room)
        try:
            with pytest.raises(OSError, match="Too many open files"):
                fork.Popen(process)
        finally:
            resource.prlimit(os.getpid(), resource.RLIMIT_NOFILE, old)
        assert descriptors() == before


def test_a_start_that_fails_leaves_no_pipes(
    make_pool: MakePool, start_method: str, caplog: pytest.LogCaptureFixture
) -> None:
    pool = make_pool(mp_context=start_method)
    pool.submit(tasks.nothing).result()
    # Whatever room there is, it ends in the middle of something.
    for room in range(1, 30, 3):
        pid = pool.submit(tasks.getpid).result(20)
        lowest = os.open("/dev/null", os.O_RDONLY)
        os.close(lowest)
        caplog.clear()
        old = limit_descriptors(os.getpid(), lowest + room)
        try:
            os.kill(pid, signal.SIGKILL)
            eventually(lambda: "is gone" in caplog.text)
        finally:
            resource.prlimit(os.getpid(), resource.RLIMIT_NOFILE, old)
        assert pool.submit(tasks.add, 1, 1).result(20) == 2


def test_a_fork_that_is_refused_leaves_no_pipes(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse() -> int:
        raise BlockingIOError(errno.EAGAIN, os.strerror(errno.EAGAIN))

    monkeypatch.setattr(os, "fork", refuse)
    process = multiprocessing.get_context("fork").Process(target=tasks.nothing)
    before = descriptors()
    with pytest.raises(BlockingIOError):
        fork.Popen(process)
    assert descriptors() == before


@pytest.mark.parametrize("method", ["spawn", "fork"])
def test_starts_that_are_refused_are_tried_again(
    make_pool: MakePool,
    method: str,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    pool = make_pool(mp_context=method)
    pid = pool.submit(tasks.getpid).result()

    def refuse(*_args: object) -> int:
        raise BlockingIOError(errno.EAGAIN, os.strerror(errno.EAGAIN))

    with monkeypatch.context() as patch:
        patch.setattr("deadpool._start.threads.Threads._start_zygote", refuse)
        os.kill(pid, signal.SIGKILL)
        eventually(lambda: caplog.text.count("could not be started") >= 3)
    assert pool.submit(tasks.add, 1, 1).result(20) == 2


@pytest.mark.parametrize("room", [0, 1, 2])
def test_the_kernel_refuses_processes_and_threads(
    tmp_path: Path, start_method: str, room: int
) -> None:
    """Whatever there is no room for: a zygote, a worker, or the second thread of one."""
    limit = {"pids.max": "max"}
    with control_group("pids", limit, limit) as group:
        out, err = run_script(
            tmp_path,
            f"""
            group = Path({str(group)!r})
            group.joinpath("cgroup.procs").write_text(str(os.getpid()))
            with deadpool.Deadpool(2, mp_context={start_method!r}) as pool:
                held = pool.submit(tasks.hold, here / "begun", here / "release")
                while {{worker.state for worker in pool.workers()}} != {{"busy", "idle"}}:
                    time.sleep(0.001)
                count = int(group.joinpath("pids.current").read_text())
                # A zygote and both threads of its worker are about to go.
                group.joinpath("pids.max").write_text(str(count - 3 + {room}))
                (idle,) = (worker.pid for worker in pool.workers() if worker.state == "idle")
                zygote = pool.submit(os.getppid).result()
                os.kill(zygote, signal.SIGKILL)
                os.kill(idle, signal.SIGKILL)
                during = pool.submit(tasks.add, 1, 1)
                begun = time.monotonic()
                while not during.done() and time.monotonic() - begun < 1:
                    time.sleep(0.001)
                group.joinpath("pids.max").write_text("max")
                # It could wait for the worker that was held.
                assert during.result() == pool.submit(tasks.add, 1, 1).result() == 2
                (here / "release").touch()
                print(held.result() == int((here / "begun").read_text()))
            """,
        )
    assert out == "True\n", err
    assert "Resource temporarily unavailable" in err


def parent(pid: int) -> int:
    found = stat(pid)
    assert found is not None
    return found.parent


def test_a_parent_without_descriptors_can_look_at_its_pool_and_use_it(tmp_path: Path) -> None:
    """In a process of its own, where nothing was called before."""
    body = """
import resource
pool = deadpool.Deadpool(1)
assert pool.submit(abs, -1).result() == 1
soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
resource.setrlimit(resource.RLIMIT_NOFILE, (3, hard))
(worker,) = pool.workers()
assert (worker.state, worker.tasks_done) == ("idle", 1)
assert pool.get_statistics()["tasks_failed"] == 0
assert pool.submit(abs, -2).result() == 2
assert list(pool.map(abs, [-3])) == [3]
assert isinstance(pool.submit(int, "x").exception(), ValueError)
pool.shutdown()
print("done")
    """
    assert run_script(tmp_path, body) == ("done\n", "")
