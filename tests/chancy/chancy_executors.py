"""Executors that users could have made of ours."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable
from typing import Any

from chancy import QueuedJob

from deadpool.chancy import DeadpoolExecutor

prepared: list[str] = []


class Extended(DeadpoolExecutor):
    """Extends all that may be extended."""

    def __init__(self, worker: Any, queue: Any, *, colour: str = "none", **options: Any) -> None:
        super().__init__(worker, queue, **options)
        self.colour = colour

    async def on_job_starting(self, job: QueuedJob) -> QueuedJob:
        job = await super().on_job_starting(job)
        job.meta["colour"] = self.colour
        return job

    async def on_job_completed(
        self, *, job: QueuedJob, exc: BaseException | None = None, result: Any = None
    ) -> None:
        job.meta["result"] = result
        await super().on_job_completed(job=job, exc=exc, result=result)

    @classmethod
    def on_initialize_worker(cls) -> None:
        super().on_initialize_worker()
        prepared.append("well")

    @classmethod
    def job_wrapper(cls, job: QueuedJob) -> tuple[QueuedJob, Any]:
        job.meta["wrapped"] = [*prepared, os.getpid()]
        return super().job_wrapper(job)

    @classmethod
    def get_function_and_kwargs(cls, job: QueuedJob) -> tuple[Callable[..., Any], dict[str, Any]]:
        function, arguments = super().get_function_and_kwargs(job)
        if "b" in arguments:
            arguments["b"] = 40
        return function, arguments

    @classmethod
    def job_signal_handler(cls, signum: int, frame: Any) -> None:
        if signum == signal.SIGALRM:
            raise TimeoutError("as the subclass says")
        super().job_signal_handler(signum, frame)


class FromProcessExecutor(DeadpoolExecutor):
    """Has the ``job_wrapper`` that one of Chancy's ``ProcessExecutor`` has."""

    @classmethod
    def job_wrapper(cls, job: QueuedJob, pids_for_job: Any, pending: Any) -> Any:  # type: ignore[override]
        pids_for_job[job.id] = os.getpid()
        pending.pop(job.id, None)
        return super().job_wrapper(job, pids_for_job, pending)


class Forgetful(DeadpoolExecutor):
    """Returns what the job says instead of the job and its result."""

    @classmethod
    def job_wrapper(cls, job: QueuedJob) -> Any:
        assert job.kwargs is not None
        return eval(job.kwargs["returned"])


class Unprepared(DeadpoolExecutor):
    """Can't set up a worker."""

    @classmethod
    def on_initialize_worker(cls) -> None:
        raise RuntimeError("nothing is there to be set up with")


class Unready(DeadpoolExecutor):
    """Never has a worker set up."""

    @classmethod
    def on_initialize_worker(cls) -> None:
        time.sleep(3600)


class Spawning(DeadpoolExecutor):
    """Has a start method of its own."""

    def __init__(self, worker: Any, queue: Any, **options: Any) -> None:
        super().__init__(worker, queue, start_method="spawn", **options)
