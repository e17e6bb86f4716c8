"""A process pool that is really hard to kill.

:class:`Deadpool` is a :class:`concurrent.futures.Executor` whose supervisor is written in Rust: tasks
that hang, leak, crash or meet the kernel's out-of-memory killer never break the pool.
"""

from concurrent.futures import as_completed

from ._core import __version__
from ._exceptions import (
    BacklogFull,
    CancelledError,
    MemoryLimitError,
    PoolClosed,
    ProcessError,
    RemoteTraceback,
    SoftTimeoutError,
    TimeoutError,
)
from ._executor import Deadpool, WorkerInfo, trim_memory
from ._future import Future

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
