"""What runs in a worker process for a job of Chancy."""

from __future__ import annotations

import contextlib
import inspect
import resource
import signal
from collections.abc import Callable, Iterator
from typing import Any


class Named:
    """A call that goes by the name of a job's function, where errors tell what was running."""

    def __init__(self, name: str) -> None:
        self.__module__, _, self.__qualname__ = name.rpartition(".")


class JobCall(Named):
    """A call of ``job_wrapper`` of an executor's class.

    :param executor: The class.
    :param job: The job.
    :param arguments: What its ``job_wrapper`` takes besides the job.
    :param limits: What :func:`limits` takes.
    """

    def __init__(
        self, executor: Any, job: Any, arguments: tuple[Any, ...], limits: dict[str, Any]
    ) -> None:
        super().__init__(job.func)
        self._parts = (executor, job, arguments, limits)

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), self._parts

    def __call__(self) -> tuple[Any, Any]:
        """Run the job, and return it with its result."""
        executor, job, arguments, own_limits = self._parts
        with limits(**own_limits):
            return pair(executor.job_wrapper(job, *arguments))


def pair(outcome: Any) -> tuple[Any, Any]:
    """Return what ``job_wrapper`` returned.

    :raises TypeError: If it is not a pair, which fails the job here, and would lose it later.
    """
    if not (isinstance(outcome, tuple) and len(outcome) == 2):
        raise TypeError(f"job_wrapper must return the job and its result, not {type(outcome)}")
    # Here, since the process that forks the workers need not know Chancy.
    from chancy.job import QueuedJob

    if not isinstance(outcome[0], QueuedJob):
        raise TypeError(f"job_wrapper must return the job first, not {type(outcome[0])}")
    return outcome


class Running:
    """Whether a job is running in this process."""

    now = False


@contextlib.contextmanager
def limits(
    *, address_space_bytes: int | None = None, alarm_seconds: float | None = None
) -> Iterator[None]:
    """Enforce what only the worker can, while a job runs.

    :param address_space_bytes: The most address space that the process may have; None for any.
    :param alarm_seconds: After how many seconds SIGALRM is to come; None for never.
    """
    Running.now = True
    try:
        with _address_space(address_space_bytes), _alarm(alarm_seconds):
            yield
    finally:
        Running.now = False


@contextlib.contextmanager
def _address_space(limit_bytes: int | None) -> Iterator[None]:
    if limit_bytes is None:
        yield
        return
    soft, hard = resource.getrlimit(resource.RLIMIT_AS)
    if hard != resource.RLIM_INFINITY:
        limit_bytes = min(limit_bytes, hard)
    resource.setrlimit(resource.RLIMIT_AS, (limit_bytes, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_AS, (soft, hard))


@contextlib.contextmanager
def _alarm(seconds: float | None) -> Iterator[None]:
    if seconds is None:
        yield
        return
    # A timer of 0 would be no timer.
    signal.setitimer(signal.ITIMER_REAL, max(seconds, 1e-6))
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)


def set_signal_handlers(handler: Callable[[int, Any], object]) -> None:
    """Let SIGALRM and SIGUSR1 call the handler."""
    for number in (signal.SIGALRM, signal.SIGUSR1):
        signal.signal(number, handler)


def more_arguments(job_wrapper: Callable[..., Any]) -> tuple[Any, ...]:
    """Return what a ``job_wrapper`` wants besides the job.

    Those that were written for Chancy's ``ProcessExecutor`` take two dictionaries: of the process ids
    of jobs, and of jobs to be cancelled. Nothing is in them here, since the pool keeps both.
    """
    try:
        inspect.signature(job_wrapper).bind(None)
    except TypeError:
        return ({}, {})
    return ()
