"""Sending signals to worker processes, and to nothing else."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable, Collection

# In the prefork pool it raises SoftTimeLimitExceeded in the task, and is sent for that by users.
SOFT_LIMIT = signal.SIGUSR1


def number(signum: int | str | None) -> int:
    """Return the number of a signal; SIGTERM's for None."""
    if signum is None:
        return int(signal.SIGTERM)
    if isinstance(signum, str):
        name = signum.upper()
        return int(signal.Signals[name if name.startswith("SIG") else f"SIG{name}"])
    return int(signum)


def send(pid: int, signum: int, ours: Callable[[], Collection[int]]) -> None:
    """Send a signal to a process if it is one of ours.

    :param pid: The process.
    :param signum: The signal.
    :param ours: Returns the processes that are ours.
    """
    try:
        process = os.pidfd_open(pid)
    except ProcessLookupError:
        return
    try:
        # Whoever has this number is held by the descriptor, so it is looked up now and not before.
        if pid in ours():
            signal.pidfd_send_signal(process, signum)
    except ProcessLookupError:
        pass
    finally:
        os.close(process)
