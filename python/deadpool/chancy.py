"""Executors for Chancy, the job queue on Postgres, on a pool that is really hard to kill.

A queue names its executor, here in place of Chancy's ``ProcessExecutor``::

    Queue("default", concurrency=10, executor="deadpool.chancy.DeadpoolExecutor")

Needs Chancy 0.26 or later and Python 3.11 or later: ``pip install 'deadpool-executor[chancy]'``.
"""

from __future__ import annotations

import asyncio
import os
import pickle
import signal
import sys
from types import FrameType
from typing import TYPE_CHECKING, Any

try:
    from chancy.executors.base import Executor
except ImportError as _error:
    raise ImportError(
        "deadpool.chancy needs Chancy 0.26 or later, which needs Python 3.11 or later: "
        f"pip install 'deadpool-executor[chancy]' ({_error})"
    ) from _error

from ._chancy import interpreter, job_call
from ._chancy.base import PoolExecutor

if TYPE_CHECKING:
    from chancy.job import QueuedJob

    from ._chancy.limits import JobLimits

__all__ = ["DeadpoolExecutor", "DeadpoolSubInterpreterExecutor"]


class DeadpoolExecutor(PoolExecutor):
    """Run jobs in processes; a replacement for Chancy's ``ProcessExecutor``.

    A job that crashes, hangs or leaks fails alone, and says why. Its TIME limit is a deadline that
    holds whatever the code does, and its MEMORY limit counts all processes that it starts. Cancelling
    a job that runs kills it with all that it has started.

    The options are what a queue has as ``executor_options``.

    :param worker: The worker of Chancy.
    :param queue: The queue whose jobs are run. Its ``concurrency`` is the number of processes.
    :param maximum_jobs_per_worker: After how many jobs a process is replaced; None for never.
    :param min_workers: How many processes an idle queue keeps. By default all. Others go when
        they had nothing to do for twice the queue's ``polling_interval``.
    :param max_worker_memory_bytes: A process whose resident memory is at least this after a job is
        replaced. By default none is.
    :param malloc_trim_rss_memory_threshold_bytes: A process whose resident memory is over this after
        a job gives unused heap memory back to the system. By default none does.
    :param retries: How often a job is run again whose process died, before Chancy is told. A job that
        raised, was cancelled or went over a limit is not.
    :param limit_address_space: Whether a MEMORY limit is the process's ``RLIMIT_AS`` too, which the job
        meets as a :class:`MemoryError`. The interpreter's own address space counts.
    :param time_limit_grace_seconds: For how long a job may clean up after its TIME limit, before it is
        killed. With more than 0, ``job_signal_handler`` is called at the limit.
    :param worker_start_timeout_seconds: How long a process may take to start, ``on_initialize_worker``
        included, before it is killed and another is started. Jobs that wait fail when the third in
        a row was too late and no process is ready.
    :param mp_context: ``"forkserver"`` (the default), ``"spawn"`` or ``"fork"``, or a context of
        :mod:`multiprocessing`.
    :param start_method: The same, by the name that the standard library has for it.
    :raises TypeError: If there is no such option, or it is of another type.
    :raises ValueError: If an option is out of range, or there are too few descriptors for as many
        processes.
    """

    def _set_up(self) -> dict[str, Any]:
        return {"initializer": self.on_initialize_worker}

    @classmethod
    def on_initialize_worker(cls) -> None:
        """Set up a process before its first job: signal handlers, and Django if it is configured.

        For subclasses to extend. If it raises, the job that waited for the process fails with what
        it raised, and another process is started.
        """
        job_call.set_signal_handlers(cls.job_signal_handler)
        if os.environ.get("DJANGO_SETTINGS_MODULE"):
            try:
                import django
            except ImportError:
                return
            django.setup()

    @classmethod
    def job_wrapper(cls, job: QueuedJob, *_: object) -> tuple[QueuedJob, Any]:
        """Run a job in a worker process, and return it with its result.

        For subclasses to extend. One that takes the two further arguments of Chancy's
        ``ProcessExecutor`` gets empty dictionaries for them, and may pass them on.

        :returns: The job, whose ``meta`` it may have changed, and what its function returned.
        """
        wrapped: tuple[QueuedJob, Any] = super().job_wrapper(job)
        return wrapped

    @classmethod
    def job_signal_handler(cls, signum: int, frame: FrameType | None) -> None:  # noqa: ARG003
        """Handle a signal in a worker process; called in its main thread.

        SIGALRM comes at the job's TIME limit if ``time_limit_grace_seconds`` leaves time for it.
        SIGUSR1 comes from whoever wants to interrupt a job; cancelling does not send it, but kills.

        :raises TimeoutError: For SIGALRM, while a job runs.
        :raises asyncio.CancelledError: For SIGUSR1, while a job runs.
        """
        if not job_call.Running.now:
            return
        if signum == signal.SIGALRM:
            raise TimeoutError("the time limit of the job has passed")
        if signum == signal.SIGUSR1:
            raise asyncio.CancelledError("the job was interrupted")

    def _call(self, job: QueuedJob, limits: JobLimits) -> job_call.JobCall:
        more = job_call.more_arguments(self.job_wrapper)
        return job_call.JobCall(type(self), job, more, self._own_limits(limits))

    def _own_limits(self, limits: JobLimits) -> dict[str, Any]:
        own = super()._own_limits(limits)
        if limits.seconds is not None and self.options.time_limit_grace_seconds > 0:
            own["alarm_seconds"] = limits.seconds
        return own

    def get_default_concurrency(self) -> int:
        """Return how many jobs run at the same time if the queue does not say: one for each CPU."""
        return _available_cpus()


class DeadpoolSubInterpreterExecutor(PoolExecutor):
    """Run each job in a sub-interpreter; a replacement for Chancy's ``SubInterpreterExecutor``.

    Needs Python 3.14, or 3.13 with the package ``interpreters-pep-734``. Each sub-interpreter is in a
    process of its own, so that limits and cancelling work as with :class:`DeadpoolExecutor`: by
    killing that process. Modules that can't be loaded in a sub-interpreter, such as numpy, can't be
    used by jobs; of this package there is only what needs no pool.

    A job with a TIME limit that takes a ``QueuedJob`` may ask for its ``time_remaining``, and
    ``checkpoint()`` raises :class:`TimeoutError` from the limit on, until
    ``time_limit_grace_seconds`` later it is killed.

    Takes the options of :class:`DeadpoolExecutor`.

    :raises ImportError: If this interpreter has no sub-interpreters that can be used.
    :raises TypeError: If there is no such option, or it is of another type.
    :raises ValueError: If an option is out of range.
    """

    capabilities: Any = PoolExecutor.capabilities | Executor.Capability.COOPERATIVE_TIME_LIMITS

    def _set_up(self) -> dict[str, Any]:
        interpreter.check_available(type(self).__name__)
        return {
            "initializer": interpreter.open_interpreter,
            "initargs": (pickle.dumps(self.on_initialize_worker), list(sys.path)),
            "finalizer": interpreter.close_interpreter,
        }

    @staticmethod
    def on_initialize_worker(parent_sys_path: list[str]) -> None:
        """Set up a sub-interpreter before its first job. For subclasses to extend.

        :param parent_sys_path: ``sys.path`` of Chancy's worker, which becomes the sub-interpreter's.
        """
        sys.path = parent_sys_path

    def _call(self, job: QueuedJob, limits: JobLimits) -> interpreter.InterpreterCall:
        payload = pickle.dumps((type(self), job, limits.seconds))
        return interpreter.InterpreterCall(job.func, payload, self._own_limits(limits))

    def get_default_concurrency(self) -> int:
        """Return how many jobs run at the same time if the queue does not say.

        Four more than there are CPUs, but at most 32.
        """
        return min(32, _available_cpus() + 4)


def _available_cpus() -> int:
    if sys.version_info >= (3, 13):
        return os.process_cpu_count() or 1
    return len(os.sched_getaffinity(0))
