"""The broker is restarted under load, and nothing is lost."""

from __future__ import annotations

import os
import signal
from collections import Counter
from pathlib import Path

import pytest
from brokers import Broker, Server, of_rabbitmq, of_redis, rabbitmq_server, redis_server
from processes import eventually
from workers import StartWorker

TASKS = 200


@pytest.mark.slow
@pytest.mark.timeout(120)
@pytest.mark.parametrize("name", ["redis", "rabbitmq"])
def test_broker_restart_under_load(start_worker: StartWorker, tmp_path: Path, name: str) -> None:
    """With both processes busy, all that may be fetched fetched, and the rest in the queue."""
    server, broker = _own(name, tmp_path)
    server.start()
    try:
        worker = start_worker("-c", "2", broker=broker)
        for _ in range(2):
            worker.client.send("hold_late", "holding", "release")
        pids = [int(pid) for pid in worker.await_lines("holding", 2)]
        for number in range(TASKS):
            worker.client.send("count_late", "runs", str(number))
        eventually(lambda: len(worker.ask("reserved")) == 6)
        # To the worker the server is gone for no time: kombu can't give messages back to a Redis that is
        # down, and Celery ends on what it raises then, whatever the pool.
        os.kill(worker.pid, signal.SIGSTOP)
        server.stop()
        server.start()
        os.kill(worker.pid, signal.SIGCONT)
        worker.await_log("Connection to broker lost")
        worker.reconnect_client()
        worker.notes.joinpath("release").touch()
        eventually(lambda: len(set(worker.lines("runs"))) == TASKS, 60)
        # Nothing had begun but those that held, so nothing else was run again.
        assert Counter(worker.lines("runs")) == {str(number): 1 for number in range(TASKS)}
        assert worker.client.run("nothing") is None
        # What ran has gone on, and the processes are the same. A process that does not get to its task for
        # a tenth of a second, on a busy machine, is given help; the helper goes, and not it.
        eventually(lambda: set(worker.worker_pids()) == set(pids))
        assert worker.stop() == 0
    finally:
        server.stop()


@pytest.mark.slow
@pytest.mark.timeout(120)
@pytest.mark.parametrize("name", ["redis", "rabbitmq"])
def test_tasks_end_while_the_broker_is_away(
    start_worker: StartWorker, tmp_path: Path, name: str
) -> None:
    server, broker = _own(name, tmp_path)
    server.start()
    try:
        # Without more in hand than runs: kombu can't give messages back to a Redis that is down.
        worker = start_worker("-c", "2", broker=broker, worker_prefetch_multiplier=1)
        for number in range(2):
            worker.client.send("sleep_late", 1.0, "begun", f"ended {number}")
        pids = worker.await_lines("begun", 2)
        server.stop()
        worker.await_log("Connection to broker lost")
        eventually(lambda: worker.lines("ended 0") and worker.lines("ended 1"))
        server.start()
        worker.reconnect_client()
        assert worker.client.run("nothing") is None
        # Their messages could not be acknowledged, and they may come again, but nothing is lost.
        assert set(pids) <= set(worker.lines("begun"))
        assert worker.stop() == 0
    finally:
        server.stop()


def _own(name: str, directory: Path) -> tuple[Server, Broker]:
    if name == "redis":
        server = redis_server(directory / "server")
        return server, of_redis(server.url)
    server = rabbitmq_server(directory / "server")
    return server, of_rabbitmq(server.url, directory / "results")
