"""A real worker of Chancy, on a real Postgres, for the time of one test."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import logging
import os
from collections.abc import AsyncIterator, Callable, Coroutine, Iterable
from pathlib import Path
from typing import Any

from chancy import Chancy, Job, Limit, Queue, QueuedJob, Reference, Worker
from chancy.plugin import Plugin

EXECUTOR = "deadpool.chancy.DeadpoolExecutor"
# How long anything may take on a machine that is busy with other things.
LONG_SECONDS = 40.0
# How often the database is asked.
INTERVAL_SECONDS = 0.01

# How often a worker says that it lives, and after how long without it is taken for dead.
HEARTBEAT_SECONDS = 0.5
HEARTBEAT_TIMEOUT_SECONDS = 4

_numbers = itertools.count()


class Site:
    """An application of Chancy with tables of its own, and workers for it.

    :param dsn: The database.
    :param path: A directory for what jobs leave.
    """

    def __init__(self, dsn: str, path: Path) -> None:
        self.dsn = dsn
        self.path = path
        self.prefix = f"t{os.getpid()}_{next(_numbers)}_"
        self.chancy: Chancy
        self.worker: Worker

    def file(self, name: str) -> str:
        return str(self.path / name)

    def play(
        self,
        story: Callable[[], Coroutine[Any, Any, None]],
        *,
        plugins: Iterable[Plugin] = (),
        **queue: Any,
    ) -> None:
        """Run a story beside a worker whose default queue is as it says."""

        async def main() -> None:
            async with self.application(plugins), self.working(**queue):
                await story()

        asyncio.run(main())

    @contextlib.asynccontextmanager
    async def application(self, plugins: Iterable[Plugin] = ()) -> AsyncIterator[Chancy]:
        """Open the application, with empty tables that are gone afterwards."""
        log = logging.getLogger("chancy.tests")
        async with Chancy(
            self.dsn,
            prefix=self.prefix,
            plugins=list(plugins),
            no_default_plugins=True,
            log=log,
        ) as self.chancy:
            await self.chancy.migrate()
            try:
                yield self.chancy
            finally:
                await self.chancy.migrate(to_version=0)

    @contextlib.asynccontextmanager
    async def working(
        self, *, shutdown_timeout: float = LONG_SECONDS, **queue: Any
    ) -> AsyncIterator[Worker]:
        """Declare the queue, and have a worker for it."""
        await self.declare(**queue)
        # Chancy's own intervals are seconds. What it is notified of it does not wait for.
        self.worker = Worker(
            self.chancy,
            register_signal_handlers=False,
            shutdown_timeout=shutdown_timeout,  # type: ignore[arg-type]
            queue_change_poll_interval=5,
            heartbeat_poll_interval=HEARTBEAT_SECONDS,  # type: ignore[arg-type]
            heartbeat_timeout=HEARTBEAT_TIMEOUT_SECONDS,
        )
        self.worker.send_outgoing_interval = INTERVAL_SECONDS  # type: ignore[assignment]
        async with self.worker:
            yield self.worker

    async def declare(self, **queue: Any) -> None:
        settings: dict[str, Any] = {
            "concurrency": 2,
            "executor": EXECUTOR,
            "eager_polling": True,
            "polling_interval": 1,
            **queue,
        }
        await self.chancy.declare(Queue("default", **settings), upsert=True)

    @property
    def executor(self) -> Any:
        return self.worker.executors["default"]

    async def executor_ready(self) -> Any:
        # An executor without jobs is false, as it has a length.
        await eventually(lambda: "default" in self.worker.executors)
        return self.executor

    async def push(
        self, func: Any, *limits: Limit, attempts: int = 1, priority: int = 0, **kwargs: Any
    ) -> Reference:
        job: Job = func.job.with_kwargs(**kwargs).with_limits(list(limits))
        return await self.chancy.push(job.with_max_attempts(attempts).with_priority(priority))

    async def end(self, *references: Reference, seconds: float = LONG_SECONDS) -> list[QueuedJob]:
        """Wait for the end of jobs, and return them in the order in which they were asked for."""
        # Each asks for all of them.
        interval: Any = INTERVAL_SECONDS if len(references) < 100 else 1
        await self.chancy.wait_for_jobs(list(references), interval=interval, timeout=seconds)
        jobs = {job.id: job for job in await self.chancy.get_jobs(list(references))}
        return [jobs[reference.identifier] for reference in references]

    async def run(self, func: Any, *limits: Limit, **kwargs: Any) -> QueuedJob:
        """Push a job and return it as it is when it has ended."""
        (job,) = await self.end(await self.push(func, *limits, **kwargs))
        return job

    async def run_well(self) -> None:
        """Check that the worker goes on."""
        from chancy_jobs import add

        job = await self.run(add, a=1, b=1)
        assert job.state is QueuedJob.State.SUCCEEDED
        assert job.meta["sum"] == 2


async def eventually(condition: Callable[[], Any], seconds: float = LONG_SECONDS) -> Any:
    """Wait until the condition is true, and return its value."""
    async with asyncio.timeout(seconds):
        while not (value := condition()):
            await asyncio.sleep(0.002)
    return value


async def begun(path: str) -> list[int]:
    """Wait for a job to have begun, and return the process ids that it has left."""
    file = Path(path)
    await eventually(file.exists)
    return [int(pid) for pid in file.read_text().split()]


def error_of(job: QueuedJob) -> str:
    """Return what Chancy has recorded of the last failure of a job."""
    assert job.state is QueuedJob.State.FAILED, job
    return str(job.errors[-1]["traceback"])
