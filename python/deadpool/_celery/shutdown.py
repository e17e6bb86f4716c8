"""Ending a worker: what signals interrupt, and waiting for the last tasks."""

from __future__ import annotations

import contextlib
import queue
import threading
from collections.abc import Callable
from typing import Any

from celery.utils.log import get_logger
from celery.worker import state as worker_state
from kombu.message import Message

from .callbacks import HubCalls, ThreadCalls, request_of

_logger = get_logger("deadpool.celery")

# So often at least are timers looked at, on which heartbeats depend.
_TICK_SECONDS = 0.5


class Uninterrupted:
    """Code in which nothing is to be ended, as a context manager.

    The signal handler of a cold shutdown stops the pool wherever it has come. Amid the submission of a
    task or one of Celery's callbacks it would wait for what can't go on before it returns.
    """

    def __init__(self) -> None:
        self._depth = 0
        self._thread: int | None = None
        self._due: Callable[[], object] | None = None

    def __enter__(self) -> None:
        self._thread = threading.get_ident()
        self._depth += 1

    def __exit__(self, *_exc_info: object) -> None:
        self._depth -= 1
        if self._depth == 0 and self._due is not None:
            due, self._due = self._due, None
            due()

    def puts_off(self, function: Callable[[], object]) -> bool:
        """Have a function called after this code, if this was called amid it; return whether it was."""
        if self._depth == 0 or threading.get_ident() != self._thread:
            return False
        self._due = function
        return True


def cancel(accepted: Callable[..., object] | None, pool: Any) -> None:
    """Cancel a task in a cold shutdown, as Celery does with those that it has known to run.

    :param accepted: Celery's callback, by which the task's request is known.
    :param pool: The pool.
    """
    request = request_of(accepted)
    if request is None or request._already_cancelled or request._already_revoked:
        return
    is_late = request.task.acks_late
    if is_late and (request.acknowledged or request.id in worker_state.successful_requests):
        return
    request.cancel(pool, emit_retry=not is_late)


def wait_in_hub(hub: Any, calls: HubCalls, is_over: Callable[[], bool]) -> None:
    """Do the work of the event loop, in its thread, until something is over. Blocks.

    Messages are acknowledged and heartbeats sent, and nothing new is read.

    :param hub: The event loop; None if it is gone.
    :param calls: Celery's callbacks.
    :param is_over: Whether to return.
    """
    while not is_over():
        delay = _fire_timers(hub)
        _acknowledge(hub)
        calls.wait(delay)
        calls.run()
    _acknowledge(hub)


def wait_in_thread(calls: ThreadCalls, is_over: Callable[[], bool]) -> None:
    """Wait until something is over, which calls of another thread bring about. Blocks."""
    calls.is_watched = True
    while not is_over():
        with contextlib.suppress(queue.Empty):
            # One may have been made before it was watched.
            calls.ran.get(timeout=_TICK_SECONDS)


def _fire_timers(hub: Any) -> float:
    if hub is None:
        return _TICK_SECONDS
    try:
        return min(hub.fire_timers() or 0.0, _TICK_SECONDS)
    except Exception:
        # Such as a timer that was being fired when the signal to end came.
        _logger.warning("a timer failed while the pool was being stopped", exc_info=True)
        return _TICK_SECONDS


def _acknowledge(hub: Any) -> None:
    """Make the calls that the loop would make next, so far as they acknowledge messages.

    Others might read from the broker, and give tasks to a pool that takes no more.
    """
    if hub is None:
        return
    ready = hub._pop_ready()
    while ready:
        promise = ready.pop()
        if not _acknowledges(promise):
            hub.call_soon(promise)
            continue
        try:
            promise()
        except Exception:
            _logger.warning("a message could not be acknowledged", exc_info=True)


def _acknowledges(promise: Any) -> bool:
    function = getattr(promise, "fun", None)
    return isinstance(getattr(function, "__self__", None), Message) and getattr(
        function, "__name__", None
    ) in ("ack_log_error", "reject_log_error")
