"""Programs that close descriptors which are not their own: nobody waits for ever."""

from __future__ import annotations

from pathlib import Path

import pytest
from processes import run_script

CLOSE_ALL = "os.closerange(3, 4096)"


@pytest.fixture(params=["forkserver", "spawn", "fork"])
def method(request: pytest.FixtureRequest) -> str:
    name: str = request.param
    return name


def test_while_a_task_runs(tmp_path: Path, method: str) -> None:
    body = f"""
    pool = deadpool.Deadpool(2, mp_context={method!r})
    pool.submit(tasks.nothing).result()
    futures = [pool.submit(time.sleep, 3600) for _ in range(3)]
    futures[0].add_pid_callback(lambda future: None)
    {CLOSE_ALL}
    for future in futures:
        print(type(future.exception(20)).__name__)
    pool.shutdown()
    """
    out, _ = run_script(tmp_path, body)
    assert out == "ProcessError\n" * 3


@pytest.mark.parametrize("idle_seconds", [0, 0.5])
def test_at_once_after_a_task_was_submitted(
    tmp_path: Path, method: str, idle_seconds: float
) -> None:
    # After a quarter of a second an idle pool sleeps for good, of which nothing tells.
    body = f"""
    pool = deadpool.Deadpool(2, mp_context={method!r})
    pool.submit(tasks.nothing).result()
    time.sleep({idle_seconds})
    future = pool.submit(time.sleep, 3600)
    {CLOSE_ALL}
    print(type(future.exception(20)).__name__)
    pool.shutdown()
    """
    out, _ = run_script(tmp_path, body)
    assert out == "ProcessError\n"


def test_while_the_pool_is_idle(tmp_path: Path, method: str) -> None:
    body = f"""
    pool = deadpool.Deadpool(2, mp_context={method!r})
    pool.submit(tasks.nothing).result()
    {CLOSE_ALL}
    try:
        print(type(pool.submit(tasks.nothing).exception(20)).__name__)
    except deadpool.PoolClosed:
        print("PoolClosed")
    pool.shutdown()
    print("over")
    """
    out, _ = run_script(tmp_path, body)
    # Who notices it first, the one who submits or the supervisor, is left open.
    assert out in {"ProcessError\nover\n", "PoolClosed\nover\n"}


def test_before_a_shutdown(tmp_path: Path, method: str) -> None:
    body = f"""
    pool = deadpool.Deadpool(2, mp_context={method!r})
    pool.submit(tasks.nothing).result()
    {CLOSE_ALL}
    pool.shutdown()
    print("over")
    """
    out, _ = run_script(tmp_path, body)
    assert out == "over\n"
