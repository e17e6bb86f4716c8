"""Every way to be struck at every place: the future ends, rightly, and the pool goes on."""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import strikes
import tasks
from pools import MakePool
from processes import (
    await_death,
    await_path,
    kill_session,
    reap_orphans,
    run_script,
    start_script,
    tree,
)
from strikes import WAYS

import deadpool

# Strikes after which the process is no more.
DEADLY = ("SIGKILL", "SIGSEGV", "os._exit")


def check_end(future: deadpool.Future, how: str) -> None:
    """Check that a task that had begun ended as it was struck."""
    error = future.exception(20)
    if how == "hang":
        assert type(error) is deadpool.TimeoutError
    elif how == "exception":
        assert type(error) is strikes.Strike
    elif how == "sys.exit":
        assert type(error) is SystemExit
        assert error.args == (4,)
    else:
        assert type(error) is deadpool.ProcessError, error
        code = {"SIGKILL": -signal.SIGKILL, "SIGSEGV": -signal.SIGSEGV, "os._exit": 3}[how]
        assert error.exitcode == code


def check_pool(pool: deadpool.Deadpool) -> None:
    """Check that the pool works, and that large results come whole."""
    assert pool.submit(tasks.add, 1, 1).result(20) == 2
    assert pool.submit(bytes, 1_000_000).result(20) == bytes(1_000_000)


PLACES: dict[str, Callable[[str, Path], tuple[Any, ...]]] = {
    "import": lambda how, here: (tasks.identity, strikes.StrikesImported(how, here)),
    "unpickling": lambda how, here: (tasks.identity, strikes.StrikesUnpickled(how)),
    "running": lambda how, here: (strikes.strike, how),
    "pickling": lambda how, here: (strikes.return_striking, how),
    "amid a frame": lambda how, here: (strikes.strike_amid_a_frame, how),
}


@pytest.mark.parametrize("how", WAYS)
@pytest.mark.parametrize("place", PLACES)
def test_in_a_task(
    make_pool: MakePool, start_method: str, place: str, how: str, tmp_path: Path
) -> None:
    pool = make_pool(mp_context=start_method)
    call = PLACES[place](how, tmp_path)
    limit = {"deadpool_timeout": 1.0} if how == "hang" else {}
    future = pool.submit(*call, **limit)
    check_end(future, how)
    check_pool(pool)


@pytest.mark.parametrize("how", WAYS)
def test_in_the_initializer(
    make_pool: MakePool, start_method: str, how: str, tmp_path: Path
) -> None:
    marker = tmp_path / "struck"
    pool = make_pool(
        mp_context=start_method,
        initializer=strikes.strike_once,
        initargs=(how, marker),
        worker_start_timeout=2.0 if how == "hang" else 300.0,
    )
    # No task was with the worker, so none is hit.
    assert pool.submit(tasks.add, 1, 1).result(20) == 2
    assert marker.exists()


@pytest.mark.parametrize("how", WAYS)
@pytest.mark.parametrize("place", ["finalizer", "exit handler"])
def test_at_the_end_of_a_worker(
    make_pool: MakePool, start_method: str, place: str, how: str, tmp_path: Path
) -> None:
    marker = tmp_path / "struck"
    options: dict[str, Any] = {"kill_grace_period": 0.05}
    if place == "finalizer":
        options |= {"finalizer": strikes.note_and_strike, "finalargs": (how, marker)}
    else:
        options |= {"initializer": strikes.strike_at_exit, "initargs": (how, marker)}
    pool = make_pool(mp_context=start_method, max_tasks_per_child=1, **options)
    assert [pool.submit(tasks.add, 1, number).result(20) for number in range(2)] == [1, 2]
    pool.shutdown()
    # Both workers came to it, and a third that had run nothing may have.
    assert marker.read_text().count("struck\n") >= 2


@pytest.mark.parametrize("how", WAYS)
@pytest.mark.parametrize("method", ["forkserver", "spawn"])
@pytest.mark.parametrize("once", [True, False], ids=["once", "always"])
def test_in_the_import_of_the_main_module(
    tmp_path: Path, method: str, how: str, once: bool
) -> None:
    """Whoever imports it, a fork server or a zygote; a fork imports nothing."""
    body = f"""
    import strikes
    from pathlib import Path
    marker = Path({str(tmp_path / "struck")!r})
    if __name__ != "__main__":
        if {once}:
            strikes.strike_once({how!r}, marker)
        else:
            strikes.note_and_strike({how!r}, marker)
    """
    out, _ = run_script(
        tmp_path,
        f"""
        from deadpool._start import fork_server
        # A main module may take its time; here it has no more.
        fork_server._SILENT_SECONDS = 0.5
        seconds = {3.0 if how == "hang" else 300.0}
        with deadpool.Deadpool(1, mp_context={method!r}, worker_start_timeout=seconds) as pool:
            futures = [pool.submit(tasks.add, 1, number) for number in range(3)]
            ends = {{type(future.exception(30)) for future in futures}}
            print(*sorted(end.__name__ for end in ends))
        """,
        head=body,
    )
    assert (tmp_path / "struck").exists()
    if once:
        assert out == "NoneType\n"
    else:
        assert out == "ProcessError\n"


# In the parent: what it raises arrives where it belongs, and stops nobody else.

SOFT = ("exception", "sys.exit")


def test_pickling_that_fails_in_the_parent(pool: deadpool.Deadpool) -> None:
    error = pool.submit(tasks.identity, strikes.StrikesPickled("exception")).exception(20)
    assert type(error) is strikes.Strike
    check_pool(pool)


def test_pickling_that_exits_in_the_parent(make_pool: MakePool) -> None:
    pool = make_pool(max_backlog=1)
    for _ in range(3):
        # What is not for the task is for whoever submits it, and takes no room in the backlog.
        with pytest.raises(SystemExit):
            pool.submit(tasks.identity, strikes.StrikesPickled("sys.exit"))
    check_pool(pool)


@pytest.mark.parametrize("how", SOFT)
def test_unpickling_in_the_parent(pool: deadpool.Deadpool, how: str) -> None:
    check_end(pool.submit(strikes.return_striking_parent, how), how)
    check_pool(pool)


@pytest.mark.parametrize("how", SOFT)
@pytest.mark.parametrize("method", ["add_done_callback", "add_pid_callback"])
def test_callbacks_in_the_parent(
    pool: deadpool.Deadpool, begun: Path, release: Path, how: str, method: str
) -> None:
    future = pool.submit(tasks.hold, begun, release)
    later = threading.Event()
    getattr(future, method)(lambda _: strikes.strike(how))
    getattr(future, method)(lambda _: later.set())
    release.touch()
    assert future.result(20) == int(await_path(begun))
    assert later.wait(20)
    check_pool(pool)


@pytest.mark.parametrize("place", ["pickling", "unpickling", "done-callback", "pid-callback"])
def test_a_hang_in_the_parent(make_pool: MakePool, start_method: str, place: str) -> None:
    pool = make_pool(2, mp_context=start_method)
    pid = os.getpid()
    strikes.released.clear()

    def act() -> None:
        if place == "pickling":
            future = pool.submit(tasks.identity, strikes.HangsPickled(pid))
        elif place == "unpickling":
            future = pool.submit(strikes.HangsUnpickled, pid)
        else:
            future = pool.submit(tasks.nothing)
            name = "add_done_callback" if place == "done-callback" else "add_pid_callback"
            getattr(future, name)(lambda _: strikes.hang_in(pid))
        future.result(60)

    thread = threading.Thread(target=act)
    thread.start()
    try:
        # Deadlines hold meanwhile, and others have their results.
        timed = pool.submit(time.sleep, 3600, deadpool_timeout=0.2)
        assert isinstance(timed.exception(20), deadpool.TimeoutError)
        check_pool(pool)
    finally:
        strikes.released.set()
        thread.join(60)
    assert not thread.is_alive()


@pytest.mark.parametrize("how", DEADLY)
@pytest.mark.parametrize("place", ["pickling", "unpickling", "done-callback", "pid-callback"])
def test_a_parent_that_dies(tmp_path: Path, start_method: str, place: str, how: str) -> None:
    act = {
        "pickling": f"pool.submit(tasks.identity, strikes.StrikesPickled({how!r}))",
        "unpickling": f"pool.submit(strikes.return_striking_parent, {how!r}).result()",
        "done-callback": (
            f"pool.submit(tasks.nothing).add_done_callback(lambda _: strikes.strike({how!r}))"
        ),
        "pid-callback": (
            f"pool.submit(tasks.sleep, 1).add_pid_callback(lambda _: strikes.strike({how!r}))"
        ),
    }[place]
    process = start_script(
        tmp_path,
        f"""
        import strikes
        pool = deadpool.Deadpool(2, mp_context={start_method!r})
        pool.submit(tasks.start_daemon, here / "begun")
        while not (here / "go").exists():
            time.sleep(0.001)
        {act}
        time.sleep(3600)
        """,
    )
    with process:
        try:
            pids = {int(pid) for pid in await_path(tmp_path / "begun").split()}
            pids |= tree(process.pid)
            (tmp_path / "go").touch()
            process.wait(20)
            await_death(pids)
            reap_orphans(pids)
        finally:
            kill_session(process)
    assert process.returncode != 0
    assert os.getpid() not in pids
