"""The ``executor_options`` of a queue of Chancy.

They come out of a database, as JSON that anybody may have typed, so each is checked, and what is
wrong is said in a sentence that names the queue and the option. What is taken here, the pool takes
too: an option must not fail each job later.
"""

from __future__ import annotations

from dataclasses import dataclass, field, fields
from multiprocessing.context import BaseContext
from typing import Any

START_METHODS = ("forkserver", "spawn", "fork")

# Thirty years: longer than anybody waits, and short enough for any clock.
LONGEST_SECONDS = 10**9

# The pool counts bytes and tasks in 63 bits, and retries in 32.
_BITS = 63
_RETRIES_BITS = 32


@dataclass(frozen=True)
class Options:
    """What an executor was asked for; see :class:`deadpool.chancy.DeadpoolExecutor`."""

    maximum_jobs_per_worker: int | None = field(default=100, metadata={"least": 1})
    min_workers: int | None = field(default=None, metadata={"least": 0})
    max_worker_memory_bytes: int | None = field(default=None, metadata={"least": 1})
    malloc_trim_rss_memory_threshold_bytes: int | None = field(default=None, metadata={"least": 0})
    retries: int = field(default=0, metadata={"least": 0, "bits": _RETRIES_BITS})
    limit_address_space: bool = False
    time_limit_grace_seconds: float = 0.0
    worker_start_timeout_seconds: float = 300.0
    mp_context: BaseContext | str | None = None
    start_method: str | None = None

    @property
    def context(self) -> BaseContext | str | None:
        """What workers are started through."""
        return self.mp_context if self.start_method is None else self.start_method

    @property
    def method(self) -> str | None:
        """The name of the start method."""
        context = self.context
        if isinstance(context, BaseContext):
            return context.get_start_method()
        return START_METHODS[0] if context is None else context


def check(given: dict[str, Any], concurrency: int) -> Options:
    """Return the options.

    :param concurrency: How many jobs the queue runs at the same time.
    :raises TypeError: If there is no such option, or it is of another type.
    :raises ValueError: If it is out of range.
    """
    known = {option.name: option for option in fields(Options)}
    for name in given:
        if name not in known:
            raise TypeError(f"there is no option {name!r}; there are {', '.join(sorted(known))}")
    for name, value in given.items():
        range_ = known[name].metadata
        if range_ and not (value is None and known[name].type.endswith("None")):
            check_whole(name, value, **range_)
    options = Options(**given)
    if type(options.limit_address_space) is not bool:
        raise TypeError(
            f"limit_address_space must be true or false, not {options.limit_address_space!r}"
        )
    _check_seconds("time_limit_grace_seconds", options.time_limit_grace_seconds)
    _check_seconds(
        "worker_start_timeout_seconds", options.worker_start_timeout_seconds, takes_0=False
    )
    _check_start_method(options)
    if options.min_workers is not None and options.min_workers > concurrency:
        raise ValueError(
            f"min_workers must be at most the queue's concurrency, {concurrency}, "
            f"not {options.min_workers}"
        )
    return options


def check_whole(name: str, value: Any, least: int, bits: int = _BITS) -> None:
    """Check an integer.

    :raises TypeError: If it is none.
    :raises ValueError: If it is less than ``least``, or has more bits.
    """
    if isinstance(value, bool) or not isinstance(value, int):
        raise TypeError(f"{name} must be an integer, not {value!r}")
    if not least <= value < 1 << bits:
        raise ValueError(f"{name} must be at least {least} and less than 2**{bits}, not {value}")


def _check_seconds(name: str, value: Any, *, takes_0: bool = True) -> None:
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        raise TypeError(f"{name} must be a number of seconds, not {value!r}")
    if not 0 <= value <= LONGEST_SECONDS or (value == 0 and not takes_0):
        least = "at least" if takes_0 else "more than"
        raise ValueError(
            f"{name} must be {least} 0 and at most {LONGEST_SECONDS:g} seconds, not {value}"
        )


def _check_start_method(options: Options) -> None:
    if options.mp_context is not None and options.start_method is not None:
        raise ValueError("mp_context and start_method mean the same; give one of them")
    if isinstance(options.context, BaseContext) and options.start_method is None:
        return
    if options.context is not None and options.context not in START_METHODS:
        name = "mp_context" if options.start_method is None else "start_method"
        raise ValueError(
            f"{name} must be one of {', '.join(START_METHODS)}, not {options.context!r}"
        )
