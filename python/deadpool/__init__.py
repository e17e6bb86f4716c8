"""A process pool that is really hard to kill.

:class:`Deadpool` is a :class:`concurrent.futures.Executor` whose supervisor is written in Rust: tasks
that hang, leak, crash or meet the kernel's out-of-memory killer never break the pool.
"""

TYPE_CHECKING = False
if TYPE_CHECKING:
    from concurrent.futures import CancelledError, as_completed
    from concurrent.futures.process import _RemoteTraceback as RemoteTraceback

    from ._core import __version__
    from ._exceptions import (
        BacklogFull,
        MemoryLimitError,
        PoolClosed,
        ProcessError,
        SoftTimeoutError,
        TimeoutError,
    )
    from ._executor import Deadpool, trim_memory
    from ._future import Future
    from ._worker_info import WorkerInfo

__all__ = [
    "BacklogFull",
    "CancelledError",
    "Deadpool",
    "Future",
    "MemoryLimitError",
    "PoolClosed",
    "ProcessError",
    "RemoteTraceback",
    "SoftTimeoutError",
    "TimeoutError",
    "WorkerInfo",
    "__version__",
    "as_completed",
    "trim_memory",
]

# Where each name is from. A worker needs few of them, and starts in half the time without the rest.
_HOMES = {
    "BacklogFull": "deadpool._exceptions",
    "CancelledError": "concurrent.futures",
    "Deadpool": "deadpool._executor",
    "Future": "deadpool._future",
    "MemoryLimitError": "deadpool._exceptions",
    "PoolClosed": "deadpool._exceptions",
    "ProcessError": "deadpool._exceptions",
    "SoftTimeoutError": "deadpool._exceptions",
    "TimeoutError": "deadpool._exceptions",
    "WorkerInfo": "deadpool._worker_info",
    "__version__": "deadpool._core",
    "as_completed": "concurrent.futures",
    "trim_memory": "deadpool._executor",
}


def __getattr__(name: str) -> object:
    import importlib

    if name == "RemoteTraceback":
        home, original = "concurrent.futures.process", "_RemoteTraceback"
    elif name in _HOMES:
        home, original = _HOMES[name], name
    else:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value: object = getattr(importlib.import_module(home), original)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
