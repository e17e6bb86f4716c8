"""What both executors of Chancy's queues are made of: a pool, and jobs that are in it.

Chancy runs all of this in its event loop, so nothing here may block. Its worker fetches as many jobs
as the queue's concurrency allows, hands each to :meth:`PoolExecutor.push`, and forgets it: a job is
reported by the future's callback, from where it is taken back to the loop.

A job is told from another execution of the same job by its claim, which Chancy's database replaces
or clears with each: what comes late of an execution that was given up changes nothing there.
"""

from __future__ import annotations

import asyncio
import concurrent.futures
import dataclasses
import functools
import os
from typing import TYPE_CHECKING, Any

from chancy.executors.base import Executor

from . import descriptors, storable
from . import limits as job_limits
from . import options as executor_options

if TYPE_CHECKING:
    from chancy.job import QueuedJob
    from chancy.queue import Queue
    from chancy.worker import Worker

    from .._executor import Deadpool

# The pool's priorities are from 0 to 2**32 - 1 and the smallest is first; in Chancy the largest is.
_MIDDLE_PRIORITY = 1 << 31
_LAST_PRIORITY = (1 << 32) - 1

# A process that a queue need not keep stays while the queue is polled so often without a job for it.
_IDLE_POLLS = 2
# What Chancy has for a queue that does not say how often.
_POLL_SECONDS = 5


if TYPE_CHECKING:

    class ConcurrentExecutor:
        """What is used of Chancy's class, which has no types."""

        worker: Any
        queue: Any
        concurrency: int
        jobs: dict[Any, Any]

        def __init__(self, worker: Any, queue: Any) -> None: ...
        async def on_job_completed(self, *args: Any, **options: Any) -> Any: ...
        async def stop(self) -> Any: ...
        @staticmethod
        def job_wrapper(*args: Any) -> Any: ...
        def __getattr__(self, name: str) -> Any: ...

else:
    from chancy.executors.base import ConcurrentExecutor


class PoolExecutor(ConcurrentExecutor):
    """An executor whose jobs run in the processes of a :class:`deadpool.Deadpool`.

    :param worker: The worker of Chancy.
    :param queue: The queue whose jobs are run.
    :param options: See :class:`deadpool.chancy.DeadpoolExecutor`.
    :raises ImportError: If there is not what the executor needs.
    :raises TypeError: If there is no such option, or it is of another type.
    :raises ValueError: If an option is out of range.
    """

    capabilities: Any = (
        Executor.Capability.SYNC_JOBS
        | Executor.Capability.ASYNC_JOBS
        | Executor.Capability.CANCELLATION
        | Executor.Capability.AUTOMATIC_TIME_LIMITS
        | Executor.Capability.MEMORY_LIMITS
    )

    def __init__(self, worker: Worker, queue: Queue, /, **options: Any) -> None:
        super().__init__(worker, queue)
        try:
            self.options: executor_options.Options = executor_options.check(
                options, self.concurrency
            )
        except (TypeError, ValueError) as error:
            raise self._shown(error, "executor_options of ") from None
        try:
            descriptors.check(self.concurrency, self.options.method, self._taken_by_others())
            self.pool: Deadpool = self._create_pool()
        except (ImportError, TypeError, ValueError) as error:
            raise self._shown(error) from None

    def _taken_by_others(self) -> int:
        """Return how many descriptors other queues of the worker may need for their pools."""
        return sum(
            descriptors.descriptors(other.concurrency, other.options.method)
            for other in self.worker.executors.values()
            if isinstance(other, PoolExecutor)
        )

    def _shown(self, error: Exception, what: str = "") -> Exception:
        """Return the error as one that names the queue, and log it."""
        kinds = (ImportError, TypeError, ValueError)
        kind = next(kind for kind in kinds if isinstance(error, kind))
        message = f"{what}queue {self.queue.name!r}: {error}"
        # The exception ends this queue's task, which nobody may be waiting for.
        self.worker.chancy.log.error(message)
        return kind(message)

    def _set_up(self) -> dict[str, Any]:
        """Return what the pool is to do in each process: its initializer and finalizer."""
        raise NotImplementedError

    def _create_pool(self) -> Deadpool:
        # Here, since the core can't be loaded where a sub-interpreter imports this module.
        from .._executor import Deadpool

        options = self.options
        return Deadpool(
            max_workers=self.concurrency,
            min_workers=options.min_workers,
            max_tasks_per_child=options.maximum_jobs_per_worker,
            max_worker_memory_bytes=options.max_worker_memory_bytes,
            malloc_trim_rss_memory_threshold_bytes=options.malloc_trim_rss_memory_threshold_bytes,
            mp_context=options.context,
            worker_start_timeout=options.worker_start_timeout_seconds,
            worker_idle_timeout=_IDLE_POLLS * (self.queue.polling_interval or _POLL_SECONDS),
            # There are never more jobs than the queue's concurrency, and push must not block.
            max_backlog=None,
            # Jobs may have multiprocessing children, as in Chancy's own processes.
            daemon=False,
            # As with the spawned processes of Chancy, whichever way ours are started.
            propagate_environ=os.environ,
            on_initializer_error="fail",
            **self._set_up(),
        )

    def _call(self, job: QueuedJob, limits: job_limits.JobLimits) -> Any:
        """Return what a worker is to call for a job; it returns the job and its result."""
        raise NotImplementedError

    def _own_limits(self, limits: job_limits.JobLimits) -> dict[str, Any]:
        """Return what a worker itself enforces while it runs a job."""
        asked = self.options.limit_address_space and limits.memory_bytes is not None
        return {"address_space_bytes": limits.memory_bytes} if asked else {}

    async def push(self, job: QueuedJob) -> concurrent.futures.Future[Any]:
        """Start a job, or have it wait for a worker that is being started.

        What is wrong with the job is reported as its failure.
        """
        job = await self.on_job_starting(job)
        future = self._submit(job)
        # Before the callback, which is called at once if the future is done.
        self.jobs[future] = job
        future.add_done_callback(
            functools.partial(self._on_job_completed, loop=asyncio.get_running_loop())
        )
        return future

    def _submit(self, job: QueuedJob) -> concurrent.futures.Future[Any]:
        try:
            limits = job_limits.of_job(job, self.get_limit)
            timeout = limits.seconds
            if timeout is not None:
                timeout += self.options.time_limit_grace_seconds
            return self.pool.submit(
                self._call(job, limits),
                deadpool_timeout=timeout,
                deadpool_memory_limit_bytes=limits.memory_bytes,
                deadpool_retries=self.options.retries,
                deadpool_priority=min(_MIDDLE_PRIORITY - job.priority, _LAST_PRIORITY),
            )
        except Exception as error:
            # A limit that is no number, say. Raised here it would end the queue, not the job.
            future: concurrent.futures.Future[Any] = concurrent.futures.Future()
            future.set_exception(error)
            return future

    async def on_job_completed(
        self, *, job: QueuedJob, exc: BaseException | None = None, result: Any = None
    ) -> None:
        """Tell plugins and the database of the end of a job.

        A job fails whose ``meta`` can't be stored in the database; what of it can be is kept.
        Characters of an error that can't be are escaped.

        :param job: The job, as it left the worker.
        :param exc: What it failed with; None if it did not.
        :param result: What its function returned.
        """
        fault = storable.meta_fault(job.meta)
        if fault is not None:
            job = dataclasses.replace(job, meta=storable.storable_meta(job.meta))
            if exc is None:
                exc = ValueError(f"the job's meta can't be stored in the database: {fault}")
                result = None
        ending = storable.ending(job)
        await super().on_job_completed(job=ending, exc=exc, result=result)

    async def cancel_execution(self, job: QueuedJob) -> None:
        """Kill one execution of a job and all that it has started, or forget it if it waits.

        Another execution of the same job is left alone. Does not block, nor wait for the end of the
        processes.

        :param job: The execution, told by its ``id`` and ``claim_id``.
        """
        for future, running in list(self.jobs.items()):
            if (running.id, running.claim_id) == (job.id, job.claim_id) and not future.done():
                future.cancel_and_kill_if_running()

    def _shutdown_blocking(self) -> None:
        # What is in the pool was fetched from the database, and would be lost there.
        self.pool.shutdown(wait=True)

    async def stop(self) -> None:
        """Wait until all jobs have ended, and end the pool. If that is cancelled, kill them."""
        try:
            await super().stop()
        except asyncio.CancelledError:
            self.pool.kill_workers()
            raise

    async def _stop_on_cancel(self) -> None:
        # Time is up: Chancy awaits this after the shutdown's timeout.
        self.pool.kill_workers()
