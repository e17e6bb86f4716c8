"""What runs inside the sub-interpreter of a worker process.

The package that this module is in is a stand-in here: see :mod:`deadpool._chancy.interpreter`.
"""

from __future__ import annotations

import os
import pickle
import traceback
from collections.abc import Callable
from types import ModuleType
from typing import Any


def set_up(package: ModuleType) -> None:
    """Give the stand-in what of the package can be used here, for jobs that import it."""
    from .. import _exceptions

    for name in _exceptions.__all__:
        setattr(package, name, getattr(_exceptions, name))

    def missing(name: str) -> Any:
        raise AttributeError(f"deadpool has no {name!r} in a sub-interpreter")

    package.__getattr__ = missing  # type: ignore[method-assign]


def answer(function: Callable[..., Any], payload: bytes, file: int) -> None:
    """Call a function, and leave what it returned or raised in a file."""
    try:
        told = b"+" + pickle.dumps(function(*pickle.loads(payload)))
    except BaseException as error:
        told = b"-" + pickle.dumps((_pickled(error), "".join(traceback.format_exception(error))))
    with open(file, "wb", closefd=False) as stream:
        os.lseek(file, 0, os.SEEK_SET)
        stream.write(told)


def _pickled(error: BaseException) -> bytes:
    try:
        return pickle.dumps(error)
    except Exception:
        return pickle.dumps(None)


def initialize(on_initialize_worker: bytes, parent_sys_path: list[str]) -> None:
    """Call the set-up that the executor's class has for a sub-interpreter."""
    pickle.loads(on_initialize_worker)(parent_sys_path)


def run_job(executor: Any, job: Any, time_limit: float | None) -> tuple[Any, Any]:
    """Run a job, and return it with its result."""
    from .job_call import pair

    if time_limit is not None:
        job = job._with_time_limit(time_limit)
    return pair(executor.job_wrapper(job))
