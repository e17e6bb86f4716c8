"""What a task does to its process, by mistake or not, stays in its process."""

from __future__ import annotations

import os
import signal
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import hostile
import pytest
import tasks
from control_groups import control_group
from pools import MakePool, check_pool
from processes import (
    LONG_SECONDS,
    await_death,
    await_pid,
    await_pids,
    eventually,
    kill_session,
    run_script,
    start_script,
)

import deadpool

HOSTILE = [
    hostile.close_everything,
    hostile.write_garbage_everywhere,
    hostile.scribble_over_shared_memory,
    hostile.point_descriptors_elsewhere,
    hostile.shut_sockets_down,
    hostile.make_everything_blocking,
    hostile.fill_and_block_eventfds,
    hostile.leave_threads,
    hostile.block_all_signals,
    hostile.replace_signal_handlers,
    hostile.become_session_leader,
    hostile.move_away,
    hostile.lower_limits,
    hostile.forget_modules,
    hostile.leave_exception_hooks,
]

# Those that write to descriptors or shut down what is behind them.
TO_DESCRIPTORS = [
    hostile.write_garbage_everywhere,
    hostile.scribble_over_shared_memory,
    hostile.shut_sockets_down,
    hostile.make_everything_blocking,
    hostile.fill_and_block_eventfds,
]


@pytest.mark.parametrize("function", HOSTILE, ids=lambda function: function.__name__)
def test_the_pool_goes_on(
    make_pool: MakePool, start_method: str, function: Callable[[], str]
) -> None:
    if start_method == "fork" and function in TO_DESCRIPTORS:
        pytest.skip("a fork would do it to what this process has; see the test in a process apart")
    pool = make_pool(mp_context=start_method)
    # It may succeed, or cost its worker.
    assert isinstance(pool.submit(function).exception(20), (type(None), deadpool.ProcessError))
    if function is hostile.lower_limits:
        # Its worker works, and what the next task may have is what this one left.
        pool.clear_workers()
    check_pool(pool)


@pytest.mark.parametrize("function", TO_DESCRIPTORS, ids=lambda function: function.__name__)
def test_the_pool_of_a_process_that_forks_goes_on(
    tmp_path: Path, function: Callable[[], str]
) -> None:
    out, _ = run_script(
        tmp_path,
        f"""
        import hostile, pools
        with deadpool.Deadpool(1, mp_context="fork") as pool:
            for _ in range(3):
                error = pool.submit(hostile.{function.__name__}).exception(20)
                assert isinstance(error, (type(None), deadpool.ProcessError)), error
                pools.check_pool(pool)
            print("goes on")
        """,
    )
    assert out == "goes on\n"


@pytest.mark.parametrize("function", HOSTILE, ids=lambda function: function.__name__)
def test_a_neighbour_is_not_hit(
    pool_of_two: deadpool.Deadpool, begun: Path, release: Path, function: Callable[[], str]
) -> None:
    neighbour = pool_of_two.submit(tasks.hold, begun, release)
    for _ in range(3):
        pool_of_two.submit(function).exception(20)
    release.touch()
    assert neighbour.result(20) == int(begun.read_text())


@pytest.mark.parametrize(
    "error",
    [
        KeyboardInterrupt(),
        GeneratorExit(),
        MemoryError("none left"),
        SystemExit(3),
        StopIteration(1),
        RecursionError("too deep"),
        hostile.OwnBaseError("own"),
    ],
    ids=lambda error: type(error).__name__,
)
def test_what_it_raises_is_told(
    make_pool: MakePool, start_method: str, error: BaseException
) -> None:
    pool = make_pool(mp_context=start_method)
    pid = pool.submit(tasks.getpid).result()
    got = pool.submit(tasks.raise_, error).exception(20)
    assert type(got) is type(error)
    assert got.args == error.args
    # It cost no worker.
    assert pool.submit(tasks.getpid).result(20) == pid


def test_a_task_that_becomes_another_program(
    make_pool: MakePool, start_method: str, tmp_path: Path
) -> None:
    pool = make_pool(2, mp_context=start_method)
    marks = [tmp_path / "first", tmp_path / "second"]
    futures = [pool.submit(hostile.become_another_program, mark) for mark in marks]
    for future, mark in zip(futures, marks, strict=True):
        # Its process lives on, and only its connection tells.
        error = future.exception(20)
        assert isinstance(error, deadpool.ProcessError), error
        await_death(await_pids(mark))
    check_pool(pool)


def test_a_long_chain_of_causes(pool: deadpool.Deadpool) -> None:
    assert isinstance(pool.submit(hostile.raise_deep, 3000).exception(30), KeyError)
    check_pool(pool)


def test_a_stack_overflow_in_c(pool: deadpool.Deadpool) -> None:
    error = pool.submit(hostile.overflow_stack).exception(30)
    assert isinstance(error, (deadpool.ProcessError, RecursionError, MemoryError)), error
    if isinstance(error, deadpool.ProcessError):
        assert error.signal == signal.SIGSEGV
    check_pool(pool)


def test_what_is_printed_before_an_exit_is_not_said_to_be_an_error(tmp_path: Path) -> None:
    out, _ = run_script(
        tmp_path,
        """
        with deadpool.Deadpool(1) as pool:
            error = pool.submit(tasks.print_and_exit, "not flushed").exception()
            assert isinstance(error, deadpool.ProcessError), error
            assert error.exitcode == 0
            print(pool.submit(tasks.add, 1, 1).result())
        """,
    )
    assert out.endswith("2\n")


@pytest.fixture
def small_disk() -> Iterator[Path]:
    """A directory on a file system with room for 8 MiB."""
    with tempfile.TemporaryDirectory() as directory:
        mount = ["mount", "-t", "tmpfs", "-o", "size=8m", "deadpool-test", directory]
        if os.geteuid() != 0 or subprocess.run(mount, check=False, capture_output=True).returncode:
            pytest.skip("this process may not mount a small file system")
        try:
            yield Path(directory)
        finally:
            subprocess.run(["umount", "--lazy", directory], check=True)


def test_a_full_temporary_directory(
    make_pool: MakePool, small_disk: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TMPDIR", str(small_disk))
    monkeypatch.setattr(tempfile, "tempdir", None)
    pool = make_pool(mp_context="spawn")
    error = pool.submit(hostile.fill_directory, small_disk / "full").exception(20)
    assert isinstance(error, OSError)
    check_pool(pool)


@pytest.fixture
def small_group() -> Iterator[Path]:
    """A control group whose processes may use 128 MiB of memory, and swap none of it."""
    limit_bytes = 128 << 20
    with control_group(
        "memory",
        {"memory.max": limit_bytes, "memory.swap.max": 0},
        {"memory.limit_in_bytes": limit_bytes, "memory.swappiness": 0},
    ) as group:
        yield group


def test_the_kernel_kills_for_want_of_memory(
    tmp_path: Path, small_group: Path, start_method: str
) -> None:
    out, _ = run_script(
        tmp_path,
        f"""
        import hostile
        Path({str(small_group)!r}, "cgroup.procs").write_text(str(os.getpid()))
        with deadpool.Deadpool(1, mp_context={start_method!r}) as pool:
            assert pool.submit(tasks.add, 1, 1).result() == 2
            for _ in range(2):
                error = pool.submit(hostile.allocate, 512 << 20).exception()
                print(type(error).__name__, error.signal, error.oom_killed)
                assert "the kernel killed it for want of memory" in str(error)
                print(pool.submit(tasks.add, 1, 1).result())
            # It was not the kernel's doing, as far as can be told while it may kill elsewhere.
            error = pool.submit(tasks.kill_itself, signal.SIGKILL).exception()
            print(type(error).__name__, error.signal, error.oom_killed is not True)
        """,
    )
    assert out == "ProcessError 9 True\n2\n" * 2 + "ProcessError 9 True\n"


def test_the_kernel_kills_two_before_the_supervisor_looks(
    tmp_path: Path, small_group: Path
) -> None:
    process = start_script(
        tmp_path,
        f"""
        import hostile
        Path({str(small_group)!r}, "cgroup.procs").write_text(str(os.getpid()))
        pool = deadpool.Deadpool(2)
        names = "first", "second"
        futures = [
            pool.submit(hostile.allocate_when_told, here / name, here / "go", 512 << 20)
            for name in names
        ]
        print([future.exception().oom_killed for future in futures])
        """,
    )
    with process:
        try:
            pids = [await_pid(tmp_path / name) for name in ("first", "second")]
            os.kill(process.pid, signal.SIGSTOP)
            (tmp_path / "go").touch()
            await_death(pids, LONG_SECONDS)
            os.kill(process.pid, signal.SIGCONT)
            out, err = process.communicate(timeout=LONG_SECONDS)
        finally:
            kill_session(process)
    assert (out, process.returncode) == ("[True, True]\n", 0), err


def test_the_supervisor_is_never_in_the_way(
    make_pool: MakePool, begun: Path, release: Path
) -> None:
    """Everything hostile at once, and a task beside it that must not notice."""
    pool = make_pool(3)
    neighbour = pool.submit(tasks.hold, begun, release)
    futures: list[Any] = [pool.submit(function) for function in HOSTILE * 3]
    for future in futures:
        future.exception(30)
    release.touch()
    assert neighbour.result(20) == int(begun.read_text())


def test_no_deadline_waits_for_what_a_task_has_taken_away(
    pool_of_two: deadpool.Deadpool, begun: Path
) -> None:
    stealing = pool_of_two.submit(hostile.steal_from_eventfds, begun, 3.0)
    eventually(begun.exists)
    while not stealing.done():
        # Each of these wakes a supervisor that sleeps.
        pool_of_two.resize(2)
        time.sleep(0.0005)
    assert stealing.result(20) == "stolen"
    late = pool_of_two.submit(tasks.sleep, 3600, deadpool_timeout=0.2)
    assert isinstance(late.exception(20), deadpool.TimeoutError)
