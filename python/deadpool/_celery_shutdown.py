"""Waiting for the last tasks before a worker ends."""

from __future__ import annotations

import contextlib
import queue
import select
from collections.abc import Callable
from typing import Any

from celery.utils.log import get_logger
from kombu.message import Message

from ._celery_calls import HubCalls, ThreadCalls

_logger = get_logger("deadpool.celery")

# So often at least are timers looked at, on which heartbeats depend.
_TICK_SECONDS = 0.5


def wait_in_hub(hub: Any, calls: HubCalls, is_over: Callable[[], bool]) -> None:
    """Do the work of the event loop, in its thread, until something is over. Blocks.

    Messages are acknowledged and heartbeats sent, and nothing new is read.

    :param hub: The event loop; None if it is gone.
    :param calls: Celery's callbacks.
    :param is_over: Whether to return.
    """
    poll = select.poll()
    poll.register(calls.fileno(), select.POLLIN)
    while not is_over():
        delay = _fire_timers(hub)
        _acknowledge(hub)
        poll.poll(delay * 1000)
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
