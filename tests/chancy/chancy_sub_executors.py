"""Executors that users could have made of ours for sub-interpreters, and jobs for them."""

import time

from chancy import QueuedJob, job

from deadpool.chancy import DeadpoolSubInterpreterExecutor

prepared: list[str] = []


class Extended(DeadpoolSubInterpreterExecutor):
    """Prepares its sub-interpreters, and says of each job that it did so."""

    @staticmethod
    def on_initialize_worker(parent_sys_path: list[str]) -> None:
        DeadpoolSubInterpreterExecutor.on_initialize_worker(parent_sys_path)
        prepared.append("well")

    @classmethod
    def job_wrapper(cls, job: QueuedJob) -> tuple[QueuedJob, object]:
        job.meta["prepared"] = list(prepared)
        return super().job_wrapper(job)


class Forgetful(DeadpoolSubInterpreterExecutor):
    """Returns something else instead of the job."""

    @classmethod
    def job_wrapper(cls, job: QueuedJob) -> tuple[QueuedJob, object]:
        return None, 3


class Unready(DeadpoolSubInterpreterExecutor):
    """Never has a sub-interpreter set up."""

    @staticmethod
    def on_initialize_worker(parent_sys_path: list[str]) -> None:
        time.sleep(3600)


class Unprepared(DeadpoolSubInterpreterExecutor):
    """Can't set up a sub-interpreter."""

    @staticmethod
    def on_initialize_worker(parent_sys_path: list[str]) -> None:
        raise RuntimeError("nothing is there to be set up with")


@job()
def where(*, context: QueuedJob) -> None:
    """Say where this runs, and what was left there before."""
    import os

    import _interpreters  # type: ignore[import-not-found]

    number, _ = _interpreters.get_current()
    context.meta.update(interpreter=number, pid=os.getpid(), before=len(prepared))
    prepared.append("a job")


@job()
def checkpoints(*, context: QueuedJob) -> None:
    """Stop by itself when the time is over."""
    remaining = context.time_remaining
    assert remaining is not None
    assert 0 < remaining <= 1
    while True:
        context.checkpoint()
        time.sleep(0.01)


@job()
def import_ours(*, context: QueuedJob) -> None:
    """Use what of the package can be used in a sub-interpreter."""
    import deadpool

    context.meta["is_timeout"] = issubclass(deadpool.TimeoutError, TimeoutError)
    try:
        deadpool.Deadpool  # noqa: B018
    except AttributeError as error:
        context.meta["missing"] = str(error)
