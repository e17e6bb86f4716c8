"""Arguments of users, checked with a sentence that names them."""

from __future__ import annotations

import logging
import operator
import pickle
import signal
from collections.abc import Callable, Iterable

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

_logger = logging.getLogger("deadpool")


def check_whole(name: str, value: Any, least: int | None) -> int | None:
    """Return a whole number, or None for None.

    :param least: The smallest that is allowed; None allows all.
    :raises TypeError: If it is no integer.
    :raises ValueError: If it is too small.
    """
    if value is None:
        return None
    if isinstance(value, bool):
        raise TypeError(f"{name} must be an integer, not {type(value)}")
    try:
        number = operator.index(value)
    except TypeError:
        raise TypeError(f"{name} must be an integer, not {type(value)}") from None
    if least is not None and number < least:
        raise ValueError(f"{name} must be >= {least}, not {number}")
    if number >= 1 << 63:
        raise ValueError(f"{name} must be less than 2**63, not {number}")
    return number


def check_seconds(name: str, value: Any) -> None:
    """Check a number of seconds.

    :raises TypeError: If it is no number.
    :raises ValueError: If it is negative or not a number.
    """
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        raise TypeError(f"{name} must be a number of seconds, not {type(value)}")
    # Not by math.isnan(), for which an integer may be too large.
    if not value >= 0:
        raise ValueError(f"{name} must be >= 0 seconds, not {value}")


def check_callable(name: str, value: Any) -> None:
    """Check something that will be called, or None.

    :raises TypeError: If it can't be called.
    """
    if value is not None and not callable(value):
        raise TypeError(f"{name} must be a callable, not {type(value)}")


def check_signal(name: str, value: Any) -> int:
    """Return a signal's number.

    :raises TypeError: If it is no integer.
    :raises ValueError: If there is no such signal.
    """
    number = check_whole(name, value, 1)
    if number not in signal.valid_signals():
        raise ValueError(f"{name} must be the number of a signal, not {value!r}")
    assert number is not None
    return number


def check_arguments(name: str, value: Any) -> tuple[Any, ...]:
    """Return the arguments of a call as a tuple.

    :raises TypeError: If it is nothing to iterate over.
    """
    if not isinstance(value, Iterable):
        raise TypeError(f"{name} must be an iterable of arguments, not {type(value)}")
    return tuple(value)


def check_importable(*functions: Callable[..., object] | None) -> None:
    """Raise what a worker's start would fail with, and nobody would see."""
    for function in functions:
        try:
            pickle.dumps(function)
        except (pickle.PicklingError, AttributeError):
            raise
        except Exception as error:
            # Some objects can be pickled while a process is started and not otherwise.
            _logger.debug("%r may not be picklable: %s", function, error)
