"""A worker ends warm, soft, cold or not by its own will, and no task is lost or left running."""

from __future__ import annotations

import signal
from collections import Counter
from collections.abc import Callable

import pytest
from brokers import Broker
from processes import await_death, eventually, tree
from workers import Client, StartWorker, failure, get

LATE = {"worker_prefetch_multiplier": 1}


@pytest.fixture(params=["filesystem", "redis", "rabbitmq"])
def any_broker(request: pytest.FixtureRequest, own_brokers: Callable[[str], Broker]) -> Broker:
    return own_brokers(request.param)


@pytest.fixture(params=["redis", "rabbitmq"])
def hub_broker(request: pytest.FixtureRequest, own_brokers: Callable[[str], Broker]) -> Broker:
    """A broker that is read in an event loop, which acknowledges in different turns of it."""
    return own_brokers(request.param)


@pytest.fixture(params=["filesystem", "redis"])
def cold_broker(request: pytest.FixtureRequest, own_brokers: Callable[[str], Broker]) -> Broker:
    """A broker to which the handler of a signal can talk at any time.

    Celery's handler for a cold shutdown does so. Where it comes while a frame of AMQP is written, it
    waits for the lock that it holds itself, for ever, on prefork as well.
    """
    return own_brokers(request.param)


def test_warm(start_worker: StartWorker, any_broker: Broker) -> None:
    worker = start_worker("-c", "2", broker=any_broker)
    client = worker.client
    running = [client.send("sleep", 1, "begun") for _ in range(2)]
    worker.await_lines("begun", 2)
    assert worker.stop() == 0
    # What ran has ended well, and each process said goodbye.
    assert {get(result) for result in running} == {int(pid) for pid in worker.lines("begun")}
    assert len(worker.lines("shutdown")) == 2
    # What comes now is for another worker.
    waiting = client.send("add", 1, 1)
    start_worker(broker=any_broker)
    assert get(waiting) == 2


def test_cold(start_worker: StartWorker, cold_broker: Broker) -> None:
    """Tasks are killed at once; those that are acknowledged late run again elsewhere."""
    worker = start_worker("-c", "2", broker=cold_broker, **LATE)
    early = worker.client.send("sleep", 600, "early")
    worker.client.send("sleep_late", 0.5, "late", "late-ended")
    worker.await_lines("early")
    (pid,) = worker.await_lines("late")
    worker.client.send("sleep_late", 600, "stuck", "never")
    # The first has ended when this is begun.
    worker.await_lines("stuck")
    worker.stop(signal.SIGQUIT, 10)
    await_death([int(pid)])
    assert worker.lines("never") == []
    # Celery's word for a task that it has cancelled and that nobody will run again.
    assert early.state == "RETRY"


def test_cold_gives_back_what_is_acknowledged_late(
    start_worker: StartWorker, hub_broker: Broker
) -> None:
    worker = start_worker(broker=hub_broker)
    result = worker.client.send("sleep_late", 1, "begun", "ended")
    worker.await_lines("begun")
    worker.stop(signal.SIGQUIT, 10)
    assert worker.lines("ended") == []
    other = start_worker(broker=hub_broker)
    assert get(result) is None
    assert len(other.lines("ended")) == 1


def test_cold_under_load_keeps_the_promises(start_worker: StartWorker, redis: Broker) -> None:
    """The signal comes wherever it comes, in the pool or in Celery."""
    keys = [str(number) for number in range(300)]
    early, late = Counter[str](), set[str]()
    client = Client(redis)
    with client.app.producer_pool.acquire() as producer:
        for key in keys:
            client.send("count", "early", key, producer=producer, ignore_result=True)
            client.send("count_late", "late", key, producer=producer, ignore_result=True)
    for count in (10, 25, 50):
        worker = start_worker("-c", "2", broker=redis)
        worker.await_lines("early", count)
        worker.stop(signal.SIGQUIT, 10)
        early.update(worker.lines("early"))
        late.update(worker.lines("late"))
    last = start_worker("-c", "2", broker=redis)
    eventually(lambda: late.union(last.lines("late")) == set(keys))
    early.update(last.lines("early"))
    # What was acknowledged early may be lost where it was killed, and is never run again.
    assert set(early.values()) == {1}
    client.close()


def test_soft_gives_tasks_some_time(start_worker: StartWorker, redis: Broker) -> None:
    worker = start_worker("-c", "2", broker=redis, worker_soft_shutdown_timeout=1.5, **LATE)
    short = worker.client.send("sleep", 0.7, "short")
    worker.client.send("sleep", 600, "long")
    worker.await_lines("short")
    (pid,) = worker.await_lines("long")
    worker.stop(signal.SIGQUIT, 10)
    await_death([int(pid)])
    assert get(short) == int(worker.lines("short")[0])


def test_killed_worker_leaves_nothing(start_worker: StartWorker) -> None:
    worker = start_worker("-c", "2")
    worker.client.send("sleep_with_family", "family")
    (line,) = worker.await_lines("family")
    processes = tree(worker.pid) | {int(pid) for pid in line.split()}
    assert worker.process is not None
    worker.process.kill()
    worker.wait(processes)


def test_sigint_twice_is_cold(start_worker: StartWorker) -> None:
    worker = start_worker()
    worker.client.send("sleep", 600, "begun")
    worker.await_lines("begun")
    assert worker.process is not None
    worker.process.send_signal(signal.SIGINT)
    worker.await_log("initiate cold shutdown")
    worker.stop(signal.SIGINT, 10)


def test_limits_hold_while_it_ends(start_worker: StartWorker, redis: Broker) -> None:
    worker = start_worker(broker=redis)
    result = worker.client.send("hold_the_gil", "begun", time_limit=1)
    worker.await_lines("begun")
    assert worker.stop() == 0
    assert type(failure(result)).__name__ == "TimeLimitExceeded"


def test_remote_shutdown(start_worker: StartWorker, redis: Broker) -> None:
    worker = start_worker(broker=redis)
    # With Redis it is said to be ready a moment before it hears what is broadcast.
    worker.client.run("nothing")
    processes = tree(worker.pid)
    worker.client.app.control.shutdown(destination=[worker.name])
    assert worker.wait(processes) == 0
