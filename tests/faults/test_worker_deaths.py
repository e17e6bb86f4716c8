"""Workers that die: the task that ran says why, everything else goes on."""

from __future__ import annotations

import concurrent.futures
import os
import pickle
import signal
import time
from pathlib import Path

import pytest
import tasks
from pools import MakePool
from processes import await_death, await_pid, await_pids, eventually, reap_orphans

import deadpool

pytestmark = pytest.mark.every_python


def failure(future: deadpool.Future) -> deadpool.ProcessError:
    error = future.exception(20)
    assert isinstance(error, deadpool.ProcessError), error
    return error


@pytest.mark.parametrize(
    "number", [signal.SIGKILL, signal.SIGTERM, signal.SIGHUP, signal.SIGUSR1, signal.SIGRTMIN]
)
def test_a_signal_is_named(pool: deadpool.Deadpool, begun: Path, number: signal.Signals) -> None:
    future = pool.submit(tasks.begin_and, begun, tasks.kill_itself, number)
    error = failure(future)
    assert error.pid == await_pid(begun)
    assert error.exitcode == -number
    assert error.signal == number
    assert error.task == "tasks.begin_and"
    assert error.oom_killed is (None if error.oom_killed is None else False)
    assert str(error).startswith(f"Worker process {error.pid} died while running tasks.begin_and")
    assert f"exitcode {-number}" in str(error)
    assert pool.submit(tasks.add, 1, 1).result() == 2


@pytest.mark.parametrize("code", [0, 1, 3, 255])
def test_an_exit_code_is_named(pool: deadpool.Deadpool, code: int) -> None:
    error = failure(pool.submit(tasks.exit_process, code))
    assert error.exitcode == code
    assert error.signal is None
    assert error.oom_killed is False
    assert f"exitcode {code}" in str(error)
    assert pool.submit(tasks.add, 1, 1).result() == 2


@pytest.mark.parametrize(
    ("function", "number"),
    [(tasks.segfault, signal.SIGSEGV), (tasks.abort, signal.SIGABRT)],
)
def test_a_crash_comes_with_its_stack(
    make_pool: MakePool, start_method: str, function: object, number: signal.Signals
) -> None:
    pool = make_pool(mp_context=start_method)
    error = failure(pool.submit(function))
    assert error.signal == number
    assert error.stack is not None
    assert f"in {function.__name__}" in error.stack
    assert str(error).endswith(error.stack)
    assert pool.submit(tasks.add, 1, 1).result() == 2


@pytest.mark.parametrize("number", [signal.SIGBUS, signal.SIGFPE, signal.SIGILL])
def test_other_fatal_signals_come_with_their_stack(
    pool: deadpool.Deadpool, number: signal.Signals
) -> None:
    error = failure(pool.submit(tasks.kill_itself, number))
    assert error.signal == number
    assert "in kill_itself" in (error.stack or "")


def test_a_stack_is_not_taken_for_that_of_another(pool: deadpool.Deadpool) -> None:
    failure(pool.submit(tasks.segfault))
    error = failure(pool.submit(tasks.kill_itself, signal.SIGKILL))
    assert error.stack is None


def test_memory_last_seen(pool: deadpool.Deadpool, begun: Path) -> None:
    future = pool.submit(tasks.allocate, 50_000_000, begun)
    pid = await_pid(begun)
    # The memory of a long task is looked at every now and then.
    eventually(lambda: any((worker.rss_bytes or 0) > 50_000_000 for worker in pool.workers()))
    time.sleep(1.2)
    os.kill(pid, signal.SIGKILL)
    error = failure(future)
    assert error.rss_bytes is not None
    assert error.rss_bytes > 50_000_000
    assert "MiB of memory when last seen" in str(error)


def test_memory_of_a_death_that_comes_before_anybody_has_looked(
    make_pool: MakePool, start_method: str
) -> None:
    pool = make_pool(mp_context=start_method)
    error = failure(pool.submit(tasks.allocate_and, 50_000_000, tasks.segfault))
    assert error.rss_bytes is not None
    assert 50_000_000 < error.rss_bytes < 500_000_000
    assert "MiB of memory when last seen" in str(error)


def test_from_outside(make_pool: MakePool, start_method: str, begun: Path) -> None:
    pool = make_pool(mp_context=start_method)
    future = pool.submit(tasks.begin_and, begun, tasks.spin)
    pid = await_pid(begun)
    os.kill(pid, signal.SIGKILL)
    error = failure(future)
    assert (error.pid, error.signal) == (pid, signal.SIGKILL)
    assert pool.submit(tasks.getpid).result() != pid


def test_an_idle_worker_that_is_killed_is_replaced(pool: deadpool.Deadpool) -> None:
    for _ in range(3):
        pid = pool.submit(tasks.getpid).result()
        os.kill(pid, signal.SIGKILL)
        assert pool.submit(tasks.getpid).result() != pid


def test_the_pool_is_brought_back_to_its_size(pool_of_two: deadpool.Deadpool) -> None:
    pids = {worker.pid for worker in eventually(lambda: all_idle(pool_of_two, 2))}
    for pid in pids:
        os.kill(pid, signal.SIGKILL)
    assert not pids & {worker.pid for worker in eventually(lambda: all_idle(pool_of_two, 2, pids))}


def all_idle(
    pool: deadpool.Deadpool, count: int, gone: set[int] = frozenset()
) -> list[deadpool.WorkerInfo]:
    idle = [worker for worker in pool.workers() if worker.state == "idle"]
    fine = len(idle) == count and not gone & {worker.pid for worker in idle}
    return idle if fine else []


def test_many_deaths_in_a_row(make_pool: MakePool) -> None:
    pool = make_pool(2)
    futures = [pool.submit(tasks.kill_itself, signal.SIGKILL) for _ in range(30)]
    for future in futures:
        failure(future)
    assert pool.submit(tasks.add, 1, 1).result() == 2


def test_what_was_not_begun_runs_elsewhere(
    make_pool: MakePool, begun: Path, tmp_path: Path
) -> None:
    pool = make_pool()
    # Many short tasks, so that some are sent ahead of the one that dies.
    log = tmp_path / "log"
    before = [pool.submit(tasks.append, log, number) for number in range(100)]
    dying = pool.submit(tasks.kill_itself, signal.SIGKILL)
    after = [pool.submit(tasks.append, log, number) for number in range(100, 200)]
    assert failure(dying).signal == signal.SIGKILL
    concurrent.futures.wait(before + after)
    assert all(future.result() is None for future in before + after)
    assert log.read_text().split() == [str(number) for number in range(200)]


def test_what_was_begun_is_never_run_again(make_pool: MakePool, tmp_path: Path) -> None:
    pool = make_pool(2)
    log = tmp_path / "log"
    futures = []
    for number in range(60):
        futures.append(pool.submit(tasks.append, log, f"live{number}"))
        if number % 10 == 0:
            futures.append(pool.submit(tasks.count_and_die, log))
    concurrent.futures.wait(futures)
    lines = log.read_text().split()
    assert len(lines) == len(set(lines)) == len(futures)
    assert sum(future.exception() is not None for future in futures) == 6


def test_killed_while_others_are_sent_ahead(make_pool: MakePool, tmp_path: Path) -> None:
    pool = make_pool(2, max_backlog=None)
    log = tmp_path / "log"
    futures = [pool.submit(tasks.append, log, number) for number in range(3000)]
    killed = 0
    while not all(future.done() for future in futures):
        for worker in pool.workers():
            if worker.pid is not None and worker.state == "busy" and killed < 5:
                try:
                    os.kill(worker.pid, signal.SIGKILL)
                except ProcessLookupError:
                    continue
                killed += 1
                time.sleep(0.002)
    failed = [number for number, future in enumerate(futures) if future.exception()]
    assert len(failed) <= killed
    lines = log.read_text().split()
    assert len(lines) == len(set(lines)), "none begins twice"
    finished = {str(number) for number in range(3000)} - {str(number) for number in failed}
    assert finished <= set(lines)


def test_during_unpickling_it_has_begun(pool: deadpool.Deadpool) -> None:
    error = failure(pool.submit(tasks.identity, tasks.DiesUnpickling(), deadpool_retries=0))
    assert error.exitcode == 3
    assert pool.submit(tasks.add, 1, 1).result() == 2


def test_in_the_middle_of_pickling_its_result(pool: deadpool.Deadpool) -> None:
    error = failure(pool.submit(tasks.return_, tasks.DiesPickling))
    assert error.exitcode == 3
    assert pool.submit(tasks.add, 1, 1).result() == 2


def test_retries_run_it_again(pool: deadpool.Deadpool, tmp_path: Path) -> None:
    assert pool.submit(tasks.die_once, tmp_path / "marker", deadpool_retries=1).result() == "lived"


def test_a_future_tells_of_the_process_that_runs_it_again(
    pool: deadpool.Deadpool, begun: Path
) -> None:
    called: list[int | None] = []
    future = pool.submit(tasks.begin_and, begun, time.sleep, 3600, deadpool_retries=1)
    future.add_pid_callback(lambda future: called.append(future.pid))
    first = await_pid(begun)
    eventually(lambda: called == [first])
    begun.unlink()
    os.kill(first, signal.SIGKILL)
    second = await_pid(begun)
    eventually(lambda: future.pid == second)
    assert future.running()
    future.cancel_and_kill_if_running()
    assert called == [first]
    await_death([second])


def test_retries_have_an_end(pool: deadpool.Deadpool, tmp_path: Path) -> None:
    log = tmp_path / "log"
    error = failure(pool.submit(tasks.count_and_die, log, deadpool_retries=3))
    assert len(log.read_text().split()) == 4
    assert "at attempt 4" in str(error)


def test_retries_are_not_for_exceptions_or_timeouts(
    pool: deadpool.Deadpool, tmp_path: Path
) -> None:
    log = tmp_path / "log"
    future = pool.submit(tasks.append_and_hold, log, 1, log, deadpool_retries=5)
    future.result()
    release = tmp_path / "never"
    limited = {"deadpool_retries": 5, "deadpool_timeout": 0.1}
    slow = pool.submit(tasks.append_and_hold, log, 2, release, **limited)
    assert isinstance(slow.exception(), deadpool.TimeoutError)
    assert log.read_text().split() == ["1", "2"]
    raising = pool.submit(tasks.append, tmp_path / "no" / "log", 1, deadpool_retries=5)
    assert isinstance(raising.exception(), FileNotFoundError)


@pytest.mark.parametrize(
    "function", [tasks.start_child, tasks.start_session, tasks.start_daemon, tasks.crash_with_child]
)
def test_nothing_of_the_tree_is_left(
    make_pool: MakePool, start_method: str, begun: Path, function: object
) -> None:
    pool = make_pool(mp_context=start_method)
    future = pool.submit(function, begun)
    pid, below = await_pids(begun)
    if function is not tasks.crash_with_child:
        os.kill(pid, signal.SIGKILL)
    failure(future)
    await_death([pid, below])


def test_the_exceptions_can_be_pickled(pool: deadpool.Deadpool) -> None:
    error = failure(pool.submit(tasks.segfault))
    copy = pickle.loads(pickle.dumps(error))
    assert type(copy) is deadpool.ProcessError
    assert vars(copy) == vars(error)
    assert copy.args == error.args


def test_garbage_on_the_connection_condemns_the_worker(pool: deadpool.Deadpool) -> None:
    error = failure(pool.submit(tasks.write_garbage))
    assert error.task == "tasks.write_garbage"
    assert pool.submit(tasks.add, 1, 1).result() == 2


def test_closing_every_descriptor(pool: deadpool.Deadpool) -> None:
    future = pool.submit(tasks.close_descriptors)
    concurrent.futures.wait([future], 20)
    assert future.done()
    assert pool.submit(tasks.add, 1, 1).result() == 2


def test_a_zygote_that_is_killed_is_replaced(
    make_pool: MakePool, start_method: str, begun: Path, release: Path
) -> None:
    pool = make_pool(mp_context=start_method)
    zygote = pool.submit(os.getppid).result()
    future = pool.submit(tasks.hold, begun, release)
    pid = await_pid(begun)
    os.kill(zygote, signal.SIGKILL)
    release.touch()
    concurrent.futures.wait([future], 20)
    assert future.done()
    assert pool.submit(tasks.add, 1, 1).result(20) == 2
    pool.shutdown()
    # Its zygote was there to reap it.
    reap_orphans([pid])
