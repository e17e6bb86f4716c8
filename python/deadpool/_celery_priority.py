"""The priority of messages, as the pool has it: 0 is the highest."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

# AMQP allows for so many.
_HIGHEST = 255


def from_transport(app: Any) -> Callable[[Sequence[Any]], int]:
    """Return what finds the pool's priority of a task from the arguments of its tracer.

    :param app: The app, whose broker decides whether larger numbers are more or less important.
    """
    transport = app.connection_for_read().transport if app is not None else None
    if getattr(transport, "driver_type", None) == "redis":
        return _smaller_is_higher
    return _larger_is_higher


def _smaller_is_higher(args: Sequence[Any]) -> int:
    return max(_of_message(args) or 0, 0)


def _larger_is_higher(args: Sequence[Any]) -> int:
    return max(_HIGHEST - (_of_message(args) or 0), 0)


def _of_message(args: Sequence[Any]) -> int | None:
    try:
        priority = args[2]["delivery_info"]["priority"]
        return None if priority is None else int(priority)
    except (IndexError, KeyError, TypeError, ValueError):
        return None
