"""The settings of :mod:`deadpool.celery`, from the configuration of a Celery app."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from celery.exceptions import ImproperlyConfigured

_PREFIX = "deadpool_"
_START_METHODS = ("forkserver", "spawn", "fork")
TASK_MEMORY_LIMIT = "deadpool_task_memory_limit_bytes"


@dataclass(frozen=True)
class Settings:
    """What a worker pool is made with.

    :param start_method: How processes are started.
    :param preload: Whether task modules are imported once, before the worker processes are forked.
    :param task_memory_limit_bytes: Of each task that has no limit of its own.
    :param kill_grace_period: Seconds for exit handlers before a kill.
    :param worker_start_timeout: Seconds that a worker process may take to start.
    :param trim_memory_threshold_bytes: Over this, unused memory is given back after a task.
    :param max_tasks_per_child: After how many tasks a worker process is replaced.
    :param max_worker_memory_bytes: One that is larger after a task is replaced.
    """

    start_method: str
    preload: bool
    task_memory_limit_bytes: int | None
    kill_grace_period: float
    worker_start_timeout: float
    trim_memory_threshold_bytes: int | None
    max_tasks_per_child: int | None
    max_worker_memory_bytes: int | None


def read_settings(app: Any, forking_enable: bool, options: Mapping[str, Any]) -> Settings:
    """Return the settings of an app.

    :param app: The app.
    :param forking_enable: Whether Celery's own setting of the start method is its default.
    :param options: What Celery passes to its pool.
    :raises ImproperlyConfigured: If one is wrong or unknown.
    """
    known: dict[str, Callable[[str, Any], Any]] = {
        "start_method": _start_method,
        "preload": _boolean,
        "task_memory_limit_bytes": _whole,
        "kill_grace_period": _seconds,
        "worker_start_timeout": _seconds,
        "trim_memory_threshold_bytes": _whole,
    }
    values: dict[str, Any] = {
        "start_method": "forkserver" if forking_enable else "spawn",
        "preload": True,
        "task_memory_limit_bytes": None,
        "kill_grace_period": 1.0,
        "worker_start_timeout": 300.0,
        "trim_memory_threshold_bytes": None,
    }
    for setting in _given(app):
        name = setting.removeprefix(_PREFIX)
        if name not in known:
            there_are = ", ".join(_PREFIX + other for other in known)
            raise ImproperlyConfigured(
                f"{setting} is no setting of the Deadpool worker pool; there are {there_are}."
            )
        value = app.conf.get(setting)
        if value is not None:
            values[name] = known[name](setting, value)
    kibibytes = _option("worker_max_memory_per_child", options.get("max_memory_per_child"))
    tasks = _option("worker_max_tasks_per_child", options.get("maxtasksperchild"))
    if app is not None:
        _check_tasks(app)
    return Settings(
        **values,
        max_tasks_per_child=tasks,
        max_worker_memory_bytes=None if kibibytes is None else kibibytes << 10,
    )


def _given(app: Any) -> list[str]:
    """Return the names of the settings that were made, whatever their namespace."""
    if app is None:
        return []
    prefix = (getattr(app.conf, "prefix", None) or "").lower()
    names = {str(name).lower().removeprefix(prefix) for name in app.conf}
    return sorted(name for name in names if name.startswith(_PREFIX))


def _check_tasks(app: Any) -> None:
    for name, task in sorted(app.tasks.items()):
        limit = getattr(task, TASK_MEMORY_LIMIT, None)
        if limit is not None:
            _whole(f"{TASK_MEMORY_LIMIT} of the task {name}", limit)


def _option(setting: str, value: Any) -> int | None:
    # To Celery's own pool 0 means none as well.
    return _whole(setting, value) if value else None


def _start_method(setting: str, value: Any) -> str:
    if value not in _START_METHODS:
        _refuse(setting, "'forkserver', 'spawn' or 'fork'", value)
    return str(value)


def _boolean(setting: str, value: Any) -> bool:
    if not isinstance(value, bool):
        _refuse(setting, "True or False", value)
    return bool(value)


def _whole(setting: str, value: Any) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or value < 1:
        _refuse(setting, "a whole number greater than 0", value)
    return int(value)


def _seconds(setting: str, value: Any) -> float:
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        _refuse(setting, "a number of seconds", value)
    if not (math.isfinite(value) and value >= 0):
        _refuse(setting, "a number of seconds, 0 or more", value)
    return float(value)


def _refuse(setting: str, wanted: str, value: Any) -> None:
    raise ImproperlyConfigured(f"{setting} must be {wanted}, not {value!r}.")
