"""A parent that has no room, no time or no patience."""

from __future__ import annotations

import ctypes
import gc
import os
import signal
import threading
import time
from pathlib import Path
from typing import Any

import pytest
import tasks
from pools import START_METHODS, MakePool
from processes import LONG_SECONDS, await_pid, eventually, run_script, threads_of_pools

import deadpool

GIB = 1 << 30


def test_no_memory_for_threads(tmp_path: Path) -> None:
    out, _ = run_script(
        tmp_path,
        """
        import resource
        old = deadpool.Deadpool(1)
        old.submit(tasks.nothing).result()
        size = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
        before = resource.getrlimit(resource.RLIMIT_AS)
        threading.stack_size(64 << 20)
        resource.setrlimit(resource.RLIMIT_AS, (size + (8 << 20), before[1]))
        refused = 0
        for _ in range(5):
            try:
                deadpool.Deadpool(1)
            except (RuntimeError, OSError, MemoryError) as error:
                refused += 1
        # A pool that is there needs no more.
        print(refused, old.submit(tasks.add, 1, 1).result())
        resource.setrlimit(resource.RLIMIT_AS, before)
        threading.stack_size(0)
        with deadpool.Deadpool(1) as pool:
            print(pool.submit(tasks.add, 1, 1).result())
        old.shutdown()
        names = {thread.name for thread in threading.enumerate()}
        print(sorted(names - {"MainThread"}))
        """,
    )
    refused, *rest = out.split(None, 1)
    assert int(refused) == 5
    assert rest[0] == "2\n2\n[]\n"


def test_deaths_while_the_gil_is_held(make_pool: MakePool, begun: Path) -> None:
    pool = make_pool(2)
    dying = pool.submit(tasks.kill_itself, signal.SIGKILL)
    hung = pool.submit(tasks.begin_and, begun, tasks.sleep, 3600, deadpool_timeout=0.3)
    pid = await_pid(begun)
    # Nothing of Python runs in this process meanwhile.
    ctypes.PyDLL(None).sleep(2)
    # The supervisor went on: it was over long ago, and only its telling had to wait.
    assert not Path(f"/proc/{pid}").exists()
    assert isinstance(dying.exception(LONG_SECONDS), deadpool.ProcessError)
    assert isinstance(hung.exception(LONG_SECONDS), deadpool.TimeoutError)
    assert pool.submit(tasks.add, 1, 1).result(LONG_SECONDS) == 2


def test_forks_while_threads_submit(tmp_path: Path) -> None:
    out, _ = run_script(
        tmp_path,
        """
        pool = deadpool.Deadpool(2)
        results = []
        def submit():
            for number in range(300):
                results.append(pool.submit(tasks.add, number, 0).result())
        threads = [threading.Thread(target=submit) for _ in range(3)]
        for thread in threads:
            thread.start()
        codes = []
        for _ in range(20):
            child = os.fork()
            if child == 0:
                try:
                    pool.submit(tasks.nothing)
                except RuntimeError:
                    os._exit(5)
                os._exit(6)
            codes.append(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
        for thread in threads:
            thread.join()
        print(set(codes), len(results), sum(results))
        """,
    )
    assert out == f"{{5}} 900 {3 * sum(range(300))}\n"


STATES = {
    "starting": "pool = deadpool.Deadpool(2, initializer=tasks.sleep, initargs=(0.5,))",
    "idle": "pool = deadpool.Deadpool(2); pool.submit(tasks.nothing).result()",
    "busy": "pool = deadpool.Deadpool(1); pool.submit(tasks.sleep, 0.3)",
    "retiring": (
        "pool = deadpool.Deadpool(1, finalizer=tasks.sleep, finalargs=(0.3,));"
        "pool.submit(tasks.nothing).result(); pool.clear_workers()"
    ),
    "stopping": (
        "pool = deadpool.Deadpool(1);"
        "pool.submit(tasks.hang_at_exit, here / 'begun', deadpool_timeout=0.1)"
    ),
    "backing off": "pool = deadpool.Deadpool(1, initializer=os._exit, initargs=(3,))",
    "failing": (
        "pool = deadpool.Deadpool(1, initializer=os._exit, initargs=(3,));"
        "pool.submit(tasks.nothing)"
    ),
    "full": (
        "pool = deadpool.Deadpool(1, max_backlog=1);"
        "[pool.submit(tasks.sleep, 0.01) for _ in range(5)]"
    ),
    "resizing": "pool = deadpool.Deadpool(4); pool.resize(1); pool.resize(3)",
    "shut down": (
        "pool = deadpool.Deadpool(1); pool.submit(tasks.sleep, 0.3); pool.shutdown(wait=False)"
    ),
    "killed": "pool = deadpool.Deadpool(1); pool.submit(tasks.spin); pool.kill_workers()",
}


@pytest.mark.parametrize("state", STATES)
@pytest.mark.parametrize("method", START_METHODS)
def test_exit_in_each_state(tmp_path: Path, method: str, state: str) -> None:
    body = STATES[state].replace("Deadpool(", f"Deadpool(mp_context={method!r}, max_workers=", 1)
    _, err = run_script(tmp_path, f"globals()['kept'] = here\n{body}")
    assert "Traceback" not in err.replace("deadpool", ""), err


@pytest.mark.parametrize("blocks", [True, False])
def test_submitting_in_a_signal_handler(make_pool: MakePool, blocks: bool) -> None:
    pool = make_pool(2, max_backlog=None if blocks else 20)
    futures: list[deadpool.Future] = []
    handled = []

    def submit(number: int) -> None:
        try:
            futures.append(pool.submit(tasks.add, number, 0, deadpool_block=blocks))
        except deadpool.BacklogFull:
            time.sleep(0.0005)

    def handler(_signal: int, _frame: Any) -> None:
        handled.append(True)
        submit(1_000_000 + len(handled))

    before = signal.signal(signal.SIGALRM, handler)
    signal.setitimer(signal.ITIMER_REAL, 0.001, 0.0007)
    try:
        end = time.monotonic() + 1.5
        number = 0
        while time.monotonic() < end:
            submit(number)
            number += 1
            if number % 50 == 0:
                pool.get_statistics()
                pool.workers()
                futures[-1].cancel()
                futures[-1].add_done_callback(lambda _: None)
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
    assert len(handled) > 50
    for future in futures:
        assert future.cancelled() or future.result(LONG_SECONDS) >= 0


def test_32_threads_at_once(make_pool: MakePool) -> None:
    pool = make_pool(2, max_backlog=50)
    wrong: list[object] = []
    start = threading.Barrier(32)

    def work(mine: int) -> None:
        start.wait()
        for number in range(40):
            future = pool.submit(tasks.add, mine, number)
            if number % 10 == 9:
                future.cancel()
            elif future.result(LONG_SECONDS) != mine + number:
                wrong.append((mine, number))

    threads = [threading.Thread(target=work, args=(mine,)) for mine in range(32)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(40)
    assert not any(thread.is_alive() for thread in threads)
    assert wrong == []
    assert pool.get_statistics()["tasks_received"] == 32 * 40


@pytest.mark.slow
@pytest.mark.timeout(180)
def test_a_thousand_pools_that_are_dropped() -> None:
    for number in range(1000):
        pool = deadpool.Deadpool(1)
        if number % 10 == 0:
            assert pool.submit(tasks.add, 1, 1).result(LONG_SECONDS) == 2
        del pool
        if number % 20 == 0:
            gc.collect()
            # They end by themselves; so many at once are more than one machine needs to have.
            eventually(lambda: len(threads_of_pools()) < 60, 60)
    gc.collect()
    eventually(lambda: not threads_of_pools(), 60)


@pytest.mark.slow
@pytest.mark.timeout(180)
@pytest.mark.parametrize("wait", [True, False])
def test_a_hundred_thousand_that_wait_and_a_shutdown(
    make_pool: MakePool, begun: Path, release: Path, wait: bool
) -> None:
    pool = make_pool(max_backlog=None)
    running = pool.submit(tasks.hold, begun, release)
    await_pid(begun)
    futures = [pool.submit(tasks.add, number, 0) for number in range(100_000)]
    release.touch()
    begin = time.monotonic()
    pool.shutdown(wait=wait, cancel_futures=True)
    eventually(lambda: all(future.done() for future in futures), 30)
    assert time.monotonic() - begin < 30
    assert running.done()
    assert sum(future.cancelled() for future in futures) > 90_000


def available_bytes() -> int:
    for line in Path("/proc/meminfo").read_text().splitlines():
        if line.startswith("MemAvailable:"):
            return int(line.split()[1]) << 10
    return 0


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_a_result_of_three_gibibytes(make_pool: MakePool) -> None:
    if available_bytes() < 14 * GIB:
        pytest.skip("this machine has less than 14 GiB of memory to spare")
    pool = make_pool()
    result = pool.submit(bytes, 3 * GIB).result(250)
    assert len(result) == 3 * GIB
    assert not any(result[:: 1 << 20])
    del result
    assert pool.submit(tasks.add, 1, 1).result(LONG_SECONDS) == 2
    assert os.getpid() != pool.submit(tasks.getpid).result()
