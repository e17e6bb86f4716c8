"""Measure no-op tasks per second of a Celery worker through Redis: prefork and Deadpool by turns.

``python benchmarks/integrations/celery_tasks.py`` needs ``deadpool-executor[celery]``, ``redis`` and a Redis, which it
starts if ``REDIS_URL`` names none. Tasks are sent before the clock runs, so that the sender takes no part in
it; it runs from the worker's first task to its last, as Redis counts them.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import shutil
import signal
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import redis
from celery import Celery

URL = "DEADPOOL_BENCH_URL"
QUEUE = "deadpool-bench"
POOLS = {"prefork": "celery.concurrency.prefork:TaskPool", "deadpool": "deadpool.celery:TaskPool"}

app = Celery("celery_tasks", broker=os.environ.get(URL, "redis://"))
app.conf.update(
    task_default_queue=QUEUE,
    task_ignore_result=True,
    broker_connection_retry_on_startup=True,
    worker_prefetch_multiplier=4,
)


@app.task(name="nothing")
def nothing() -> None:
    """Do nothing."""


def free_port() -> int:
    """Return a port that nobody listens at."""
    with socket.socket() as listening:
        listening.bind(("127.0.0.1", 0))
        return int(listening.getsockname()[1])


@contextlib.contextmanager
def a_redis() -> Iterator[str]:
    """Find or start Redis, and yield its URL."""
    if "REDIS_URL" in os.environ:
        yield os.environ["REDIS_URL"]
        return
    program = shutil.which("redis-server")
    if program is None:
        sys.exit("set REDIS_URL, or install redis-server")
    port = free_port()
    with tempfile.TemporaryDirectory() as directory:
        command = [program, "--port", str(port), "--save", "", "--dir", directory]
        with subprocess.Popen(command, stdout=subprocess.DEVNULL) as server:
            client = redis.Redis(port=port)
            deadline = time.monotonic() + 10
            while time.monotonic() < deadline:
                with contextlib.suppress(redis.ConnectionError):
                    client.ping()
                    break
            try:
                yield f"redis://127.0.0.1:{port}/0"
            finally:
                server.terminate()


def measure(url: str, pool: str, concurrency: int, tasks: int) -> float:
    """Return how many tasks a second a worker with a pool runs."""
    client = redis.Redis.from_url(url)
    client.delete(QUEUE)
    sender = Celery(broker=url, set_as_current=False)
    with sender.connection_for_write() as connection, connection.Producer() as producer:
        for _ in range(tasks):
            sender.send_task("nothing", queue=QUEUE, producer=producer, ignore_result=True)
    command = [sys.executable, "-m", "celery", "-A", "celery_tasks", "worker"]
    command += ["--concurrency", str(concurrency), "--loglevel", "ERROR", "--pool", "custom"]
    command += ["--without-gossip", "--without-mingle", "--without-heartbeat"]
    environ = {
        **os.environ,
        URL: url,
        "C_FORCE_ROOT": "1",
        "CELERY_CUSTOM_WORKER_POOL": pool,
    }
    with subprocess.Popen(
        command, env=environ, cwd=Path(__file__).parent, stdout=subprocess.DEVNULL
    ) as worker:
        # The first tenth is left to the start.
        _wait_until_at_most(client, tasks - tasks // 10)
        began, first = time.perf_counter(), client.llen(QUEUE)
        _wait_until_at_most(client, 0)
        seconds = time.perf_counter() - began
        worker.send_signal(signal.SIGTERM)
        worker.wait(60)
    return int(first) / seconds


def _wait_until_at_most(client: redis.Redis, left: int) -> None:
    while int(client.llen(QUEUE)) > left:
        time.sleep(0.005)


def main() -> None:
    """Measure, and print a table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--tasks", type=int, default=10_000)
    parser.add_argument("--concurrency", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=5)
    options = parser.parse_args()
    rates: dict[str, list[float]] = {name: [] for name in POOLS}
    with a_redis() as url:
        for round_ in range(options.rounds):
            # Who goes first changes, since the machine may do so too.
            names = list(POOLS) if round_ % 2 == 0 else list(reversed(POOLS))
            for name in names:
                rate = measure(url, POOLS[name], options.concurrency, options.tasks)
                rates[name].append(rate)
                print(f"round {round_ + 1}  {name:10} {rate:8,.0f} tasks/s", flush=True)
    print(f"\n{'pool':10} {'median':>8} {'least':>8} {'most':>8}   tasks/s")
    for name, each in rates.items():
        print(f"{name:10} {statistics.median(each):8,.0f} {min(each):8,.0f} {max(each):8,.0f}")
    ratio = statistics.median(
        ours / theirs for ours, theirs in zip(rates["deadpool"], rates["prefork"], strict=True)
    )
    print(f"deadpool / prefork, median of the rounds: {ratio:.2f}")


if __name__ == "__main__":
    main()
