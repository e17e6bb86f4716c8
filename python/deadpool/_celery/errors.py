"""The exceptions that Celery expects, and in them what the pool knows.

They are of billiard's own classes: results travel to processes that may not have this package.
"""

from __future__ import annotations

import re
from typing import Any

from billiard.common import human_status
from billiard.einfo import ExceptionInfo
from celery import states
from celery.exceptions import Terminated, TimeLimitExceeded, WorkerLostError
from celery.worker import state as worker_state

from .._exceptions import MemoryLimitError, ProcessError, TimeoutError
from .callbacks import request_of

# The innermost frame of the pool: what comes after it in a stack is the same for each task.
_INNERMOST = re.compile(
    r"\n  File \"[^\"\n]*_celery/worker\.py\", line \d+ in run(\n  File [^\n]*)*"
)


def exception_info(error: BaseException) -> Any:
    """Return what Celery's callbacks get instead of an exception."""
    try:
        # It wants a traceback, which only raising makes.
        raise error  # noqa: TRY301
    except BaseException:
        return ExceptionInfo()


def terminated(signum: int) -> Any:
    """Return the ``ExceptionInfo`` of a task that was ended on request."""
    return exception_info(Terminated(signum))


def worker_lost(error: ProcessError, task_id: str | None) -> Any:
    """Return that of a task whose worker died; the message begins as billiard's, and says why.

    :param error: What the pool says of the death.
    :param task_id: The task's id.
    """
    status = "unknown" if error.exitcode is None else human_status(error.exitcode)
    why = _without_own_frames(str(error))
    message = f"Worker exited prematurely: {status} Job: {task_id}. {why}"
    return ended_by_pool(WorkerLostError(message))


def time_limit_exceeded(error: TimeoutError, timeout: float | None) -> Any:
    """Return that of a task that ran longer than it may; its second argument says where it was stuck.

    :param error: What the pool says of it.
    :param timeout: The limit, in seconds.
    """
    sentence = _without_own_frames(str(error))
    info = ended_by_pool(TimeLimitExceeded(timeout, sentence))
    # In place of the text of the exception, with its line breaks escaped.
    info.traceback = f"TimeLimitExceeded({timeout}): {sentence}\n"
    info.exception.tb = f'\n"""\n{info.traceback}"""'
    return info


def memory_limit_exceeded(error: MemoryLimitError) -> Any:
    """Return that of a task that took more memory than it may."""
    error.args = (_without_own_frames(str(error)),)
    return ended_by_pool(error)


def ended_by_pool(error: BaseException) -> Any:
    """Return that of an exception that no code has raised, and which so has no traceback to show."""
    info = exception_info(error)
    info.traceback = f"{type(error).__name__}: {error}\n"
    info.exception.tb = f'\n"""\n{info.traceback}"""'
    return info


def _without_own_frames(text: str) -> str:
    return _INNERMOST.sub("", text)


def tell_hard_limit(timed_out: Any, timeout: float | None, einfo: Any) -> None:
    """Tell that a task was killed at its hard limit, and have the stack in its result.

    Celery stores the result of such a task twice. The second time, which is this, it would say no more
    than how long the limit was.

    :param timed_out: Celery's callback, by which the task's request is known.
    :param timeout: The limit, in seconds.
    :param einfo: The exception, which was stored the first time.
    """
    request = request_of(timed_out)
    if request is None:
        timed_out(soft=False, timeout=timeout)
        return
    stores_errors = request.store_errors and not worker_state.should_terminate
    ignores_result = request._ignore_result
    request._ignore_result = True
    try:
        timed_out(soft=False, timeout=timeout)
    finally:
        request._ignore_result = ignores_result
    if stores_errors:
        request.task.backend.store_result(
            request.id,
            einfo.exception.exc,
            states.FAILURE,
            traceback=einfo.traceback,
            request=request._context,
        )
