"""The priority of messages, as the pool has it: 0 is the highest."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

# AMQP allows for so many.
_HIGHEST = 255
# More than any broker has. Whoever sends a message may write any number, and it is no reason to fail.
_LOWEST = (1 << 32) - 1
# What looking for a priority raises where there is none, or no number.
_NOT_THERE = (AttributeError, IndexError, KeyError, OverflowError, TypeError, ValueError)


def from_transport(app: Any) -> Callable[[int | None], int]:
    """Return what makes the pool's priority of a message's.

    :param app: The app, whose broker decides whether larger numbers are more or less important.
    """
    transport = app.connection_for_read().transport if app is not None else None
    if getattr(transport, "driver_type", None) == "redis":
        return _smaller_is_higher
    return _larger_is_higher


def _smaller_is_higher(priority: int | None) -> int:
    return min(max(priority or 0, 0), _LOWEST)


def _larger_is_higher(priority: int | None) -> int:
    return min(max(_HIGHEST - (priority or 0), 0), _LOWEST)


def of_call(args: Sequence[Any]) -> int | None:
    """Return the priority of a task's message from the arguments of its tracer; None if it has none."""
    try:
        return int(args[2]["delivery_info"]["priority"])
    except _NOT_THERE:
        return None


def of_waiting(args: Sequence[Any]) -> int | None:
    """Return it from the arguments of what waits for Celery's semaphore: its request, if it is one."""
    try:
        return int(args[0].delivery_info["priority"])
    except _NOT_THERE:
        return None
