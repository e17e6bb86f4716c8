"""Fixtures: brokers, and workers that are ended after the test."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from brokers import Broker, a_rabbitmq, a_redis, filesystem, of_rabbitmq, of_redis
from processes import become_subreaper
from workers import Client, StartWorker, Worker

BROKERS = ("filesystem", "redis", "rabbitmq")


@pytest.fixture(scope="session", autouse=True)
def _things_that_stay() -> None:
    """Do without what the tests of pools need."""
    become_subreaper()


@pytest.fixture(autouse=True)
def _nothing_left() -> None:
    """Leave it to the workers to see that nothing of them is left."""


@pytest.fixture(scope="session")
def brokers(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callable[[str], Broker]]:
    """Find or start a broker once in a session."""
    with contextlib.ExitStack() as stack:
        started: dict[str, Broker] = {}

        def find(name: str) -> Broker:
            if name not in started:
                directory = tmp_path_factory.mktemp("broker") / name
                if name == "filesystem":
                    started[name] = filesystem(directory)
                else:
                    enter = {"redis": a_redis, "rabbitmq": a_rabbitmq}[name]
                    started[name] = stack.enter_context(enter(directory))
            return started[name]

        yield find


@pytest.fixture(scope="module", params=BROKERS)
def broker(request: pytest.FixtureRequest, brokers: Callable[[str], Broker]) -> Broker:
    """Each broker in turn."""
    return brokers(request.param)


@pytest.fixture(scope="module")
def worker(broker: Broker, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Worker]:
    """A worker with two processes, for all tests of a module that leave it as it was."""
    started = Worker(broker, tmp_path_factory.mktemp("worker"), ("-c", "2"))
    try:
        yield started.start()
        assert started.stop() == 0
    finally:
        started.kill()


@pytest.fixture
def client(worker: Worker) -> Client:
    """Send tasks to that worker."""
    return worker.client


@pytest.fixture
def own_brokers(
    brokers: Callable[[str], Broker], own_broker: Broker, tmp_path: Path
) -> Callable[[str], Broker]:
    """Return a broker with queues of this test alone."""

    def find(name: str) -> Broker:
        if name == "filesystem":
            return own_broker
        url = brokers(name).config["broker_url"]
        return of_redis(url) if name == "redis" else of_rabbitmq(url, tmp_path / "results")

    return find


@pytest.fixture
def own_broker(tmp_path: Path) -> Broker:
    """A broker without a server, of this test alone."""
    return filesystem(tmp_path / "broker")


@pytest.fixture
def redis(own_brokers: Callable[[str], Broker]) -> Broker:
    """Redis, with queues of this test alone."""
    return own_brokers("redis")


@pytest.fixture
def start_worker(own_broker: Broker, tmp_path: Path) -> Iterator[StartWorker]:
    """Start workers of this test alone, by default with one process and the broker of files."""
    with contextlib.ExitStack() as stack:
        count = 0

        def start(
            *args: str, broker: Broker = own_broker, wait: bool = True, **config: Any
        ) -> Worker:
            nonlocal count
            count += 1
            environ = config.pop("environ", None)
            args = args if "-c" in args or "--autoscale" in args else ("-c", "1", *args)
            made = Worker(broker, tmp_path / f"worker-{count}", args, config, environ)
            stack.callback(made.kill)
            return made.start() if wait else made.launch()

        yield start
