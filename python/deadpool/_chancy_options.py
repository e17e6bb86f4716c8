"""The ``executor_options`` of a queue of Chancy.

They come out of a database, as JSON that anybody may have typed, so each is checked, and what is
wrong is said in a sentence that names the queue and the option.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field, fields
from multiprocessing.context import BaseContext
from typing import Any

START_METHODS = ("forkserver", "spawn", "fork")


@dataclass(frozen=True)
class Options:
    """What an executor was asked for; see :class:`deadpool.chancy.DeadpoolExecutor`."""

    maximum_jobs_per_worker: int | None = field(default=100, metadata={"least": 1})
    min_workers: int | None = field(default=None, metadata={"least": 0})
    max_worker_memory_bytes: int | None = field(default=None, metadata={"least": 1})
    malloc_trim_rss_memory_threshold_bytes: int | None = field(default=None, metadata={"least": 0})
    retries: int = field(default=0, metadata={"least": 0})
    limit_address_space: bool = False
    time_limit_grace_seconds: float = 0.0
    mp_context: BaseContext | str | None = None
    start_method: str | None = None

    @property
    def context(self) -> BaseContext | str | None:
        """What workers are started through."""
        return self.mp_context if self.start_method is None else self.start_method


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
        least = known[name].metadata.get("least")
        if least is not None and not (value is None and known[name].type.endswith("None")):
            _check_whole(name, value, least)
    options = Options(**given)
    if type(options.limit_address_space) is not bool:
        raise TypeError(
            f"limit_address_space must be true or false, not {options.limit_address_space!r}"
        )
    _check_seconds("time_limit_grace_seconds", options.time_limit_grace_seconds)
    _check_start_method(options)
    if options.min_workers is not None and options.min_workers > concurrency:
        raise ValueError(
            f"min_workers must be at most the queue's concurrency, {concurrency}, "
            f"not {options.min_workers}"
        )
    return options


def _check_whole(name: str, value: Any, least: int) -> None:
    if isinstance(value, bool) or not isinstance(value, int):
        raise TypeError(f"{name} must be an integer, not {value!r}")
    if not least <= value < 1 << 63:
        raise ValueError(f"{name} must be at least {least} and less than 2**63, not {value}")


def _check_seconds(name: str, value: Any) -> None:
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        raise TypeError(f"{name} must be a number of seconds, not {value!r}")
    if not 0 <= value < math.inf:
        raise ValueError(f"{name} must be at least 0 and finite, not {value}")


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
