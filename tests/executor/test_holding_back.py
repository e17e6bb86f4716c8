"""Tasks that wait until whoever submits them says so, as :mod:`deadpool.celery` has it with an event loop."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
import tasks
from processes import await_path, await_rest, run_script

import deadpool


class HoldingPool(deadpool.Deadpool):
    """A pool that is told when to run what it was given."""

    def __init__(self, max_workers: int) -> None:
        super().__init__(max_workers, _holds_back=True)


@pytest.fixture
def pool() -> Iterator[HoldingPool]:
    with HoldingPool(1) as pool:
        future = pool.submit(tasks.nothing)
        pool._hand_over()
        future.result(20)
        await_rest()
        yield pool


def test_all_that_was_submitted_runs_when_it_is_handed_over(pool: HoldingPool) -> None:
    futures = [pool.submit(tasks.identity, number) for number in range(5)]
    assert pool._waiting() == 5
    pool._hand_over()
    assert [future.result(20) for future in futures] == list(range(5))


def test_what_is_handed_over_twice_runs_once(pool: HoldingPool, tmp_path: Path) -> None:
    future = pool.submit(tasks.append, tmp_path / "lines", "one")
    pool._hand_over()
    pool._hand_over()
    future.result(20)
    pool._hand_over()
    assert (tmp_path / "lines").read_text() == "one\n"


@pytest.mark.parametrize("how", ["cancel", "cancel_and_kill_if_running"])
def test_what_is_cancelled_first_never_runs(pool: HoldingPool, tmp_path: Path, how: str) -> None:
    # The cancellation has the supervisor take in both, with all else that is held back.
    cancelled = pool.submit(tasks.append, tmp_path / "lines", "one")
    assert getattr(cancelled, how)()
    last = pool.submit(tasks.append, tmp_path / "lines", "two")
    pool._hand_over()
    last.result(20)
    assert (tmp_path / "lines").read_text() == "two\n"


def test_what_cannot_wait_has_its_end_when_it_is_handed_over(pool: HoldingPool) -> None:
    future = pool.submit(tasks.nothing, deadpool_timeout=0)
    pool._hand_over()
    with pytest.raises(deadpool.TimeoutError):
        future.result(20)


def test_what_is_taken_back_is_cancelled_and_never_runs(pool: HoldingPool, tmp_path: Path) -> None:
    futures = [pool.submit(tasks.append, tmp_path / "lines", number) for number in range(20)]
    pool._cancel_held()
    assert pool._waiting() == 0
    for future in futures:
        with pytest.raises(deadpool.CancelledError):
            future.result(20)
    last = pool.submit(tasks.append, tmp_path / "lines", "last")
    pool._hand_over()
    last.result(20)
    assert (tmp_path / "lines").read_text() == "last\n"
    # What was handed over stays so.
    pool._cancel_held()
    assert last.result(0) is None


def test_what_was_handed_over_is_not_taken_back(pool: HoldingPool, tmp_path: Path) -> None:
    running = pool.submit(tasks.hold, tmp_path / "begun", tmp_path / "release")
    waiting = pool.submit(tasks.identity, 1)
    pool._hand_over()
    await_path(tmp_path / "begun")
    pool._cancel_held()
    (tmp_path / "release").touch()
    assert running.result(20) > 0
    assert waiting.result(20) == 1


def test_a_pool_that_ends_runs_what_was_held_back() -> None:
    with HoldingPool(1) as pool:
        await_rest()
        future = pool.submit(tasks.identity, 7)
    assert future.result(0) == 7


def test_a_pool_that_is_forgotten_runs_what_was_held_back() -> None:
    pool = HoldingPool(1)
    await_rest()
    future = pool.submit(tasks.identity, 7)
    del pool
    assert future.result(20) == 7


def test_nothing_is_handed_over_by_a_closed_pool() -> None:
    pool = HoldingPool(1)
    pool.shutdown()
    pool._hand_over()
    pool._cancel_held()
    with pytest.raises(deadpool.PoolClosed):
        pool.submit(tasks.nothing)


@pytest.mark.parametrize("handed_over_by", ["pool._hand_over()", "pool.get_statistics()"])
@pytest.mark.parametrize("is_before", [False, True])
def test_closed_descriptors_are_noticed(
    tmp_path: Path, handed_over_by: str, is_before: bool
) -> None:
    close = "os.closerange(3, 4096)"
    steps = [close, handed_over_by] if is_before else [handed_over_by, close]
    body = f"""
    import processes

    pool = deadpool.Deadpool(1, _holds_back=True)
    future = pool.submit(tasks.nothing)
    pool._hand_over()
    future.result()
    processes.await_rest()
    future = pool.submit(time.sleep, 3600)
    {steps[0]}
    {steps[1]}
    print(type(future.exception(20)).__name__)
    pool.shutdown()
    """
    out, _ = run_script(tmp_path, body)
    assert out == "ProcessError\n"
