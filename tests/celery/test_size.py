"""Growing, shrinking, restarting and autoscaling, which never take a busy process."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from brokers import Broker
from processes import await_death, eventually
from workers import StartWorker, Worker, get


@pytest.fixture(params=["filesystem", "redis"])
def any_broker(request: pytest.FixtureRequest, own_brokers: Callable[[str], Broker]) -> Broker:
    return own_brokers(request.param)


def test_grow_and_shrink(start_worker: StartWorker, any_broker: Broker) -> None:
    worker = start_worker("-c", "1", broker=any_broker)
    client = worker.client
    long = client.send("sleep", 600, "begun")
    (busy,) = worker.await_lines("begun")
    assert worker.command("pool_grow", n=2) == {"ok": "pool will grow"}
    _await_size(worker, 3)
    more = [client.send("sleep", 0.5, "more") for _ in range(2)]
    # Two run beside the long one.
    assert len({get(result) for result in more}) == 2
    # Results are stored a moment before their processes are idle.
    eventually(lambda: len(worker.ask("active")) == 1)
    assert worker.command("pool_shrink", n=2) == {"ok": "pool will shrink"}
    _await_size(worker, 1)
    assert worker.worker_pids() == [int(busy)]
    reply = worker.command("pool_shrink", n=1)
    assert "All processes busy" in str(reply["error"])
    assert worker.ask("active")[0]["id"] == long.id
    long.revoke(terminate=True, signal="SIGKILL")


def _await_size(worker: Worker, size: int) -> None:
    eventually(lambda: len(worker.worker_pids()) == size)
    assert worker.pool_stats()["max-concurrency"] == size


def test_pool_restart(start_worker: StartWorker, any_broker: Broker) -> None:
    """New processes have new code, and a task that runs is finished by the old ones."""
    worker = start_worker("-c", "1", broker=any_broker, worker_pool_restarts=True)
    worker.await_lines("init")
    (before,) = worker.worker_pids()
    running = worker.client.send("sleep", 1, "begun")
    worker.await_lines("begun")
    assert worker.command("pool_restart") == {"ok": "reload started"}
    assert worker.client.run("pid") != before
    assert get(running) == before
    await_death([before], 10)


def test_pool_restart_is_refused_by_default(start_worker: StartWorker) -> None:
    worker = start_worker()
    assert "not enabled" in str(worker.command("pool_restart")["error"])


def test_autoscale(start_worker: StartWorker, any_broker: Broker) -> None:
    worker = start_worker(
        *("--autoscale", "3,1"), broker=any_broker, environ={"AUTOSCALE_KEEPALIVE": "1"}
    )
    tasks = [worker.client.send("hold_late", "begun", "release") for _ in range(3)]
    # Each holds its process until there are three.
    assert len(set(worker.await_lines("begun", 3))) == 3
    worker.notes.joinpath("release").touch()
    for result in tasks:
        get(result)
    # A task that goes on is not disturbed by the scaling down of the others.
    long = worker.client.send("sleep", 3, "long")
    worker.await_lines("long")
    eventually(lambda: len(worker.worker_pids()) == 1)
    assert get(long) == worker.worker_pids()[0]
