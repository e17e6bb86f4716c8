"""What a run left behind: processes, threads, descriptors, shared memory."""

from __future__ import annotations

import contextlib
import gc
import os
import signal
import time
from multiprocessing import resource_tracker
from pathlib import Path

from deadpool._start import fork_server

from ..support.processes import Stat, command_line, descriptors, maps, stat, threads_of_pools, tree

# In how long everything of a pool must be gone once it has ended.
GONE_SECONDS = 5.0


class Leftovers:
    """What is there before a run, to be compared with what is there after it."""

    def __init__(self) -> None:
        self._descriptors = descriptors()
        self._shared_memory = _shared_memory()
        self._maps = maps()

    def check(self) -> list[str]:
        """Say what is left."""
        deadline = time.monotonic() + GONE_SECONDS
        while left := self._left():
            if time.monotonic() > deadline:
                self.end_orphans()
                return [f"left behind: {left}"]
            gc.collect()
            time.sleep(0.005)
        return []

    def end_orphans(self) -> int:
        """Kill what tasks have started and nobody has killed; return how many there were."""
        own = os.getsid(0)
        found = [(pid, stat(pid)) for pid in _others()]
        # Tasks give what they leave a session of its own, as daemons have.
        orphans = [pid for pid, it in found if it and it.session != own and it.state != "Z"]
        for pid in orphans:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        return len(orphans)

    def _left(self) -> list[str]:
        left = [f"thread {name}" for name in threads_of_pools()]
        for pid in _others():
            found = stat(pid)
            if found is not None and not _reap(pid, found):
                left.append(f"process {pid} {found}: {command_line(pid)}")
        more = descriptors() - self._descriptors
        left += [f"{count} descriptors of {what}" for what, count in more.items()]
        left += ["a mapping of shared memory"] * (maps() - self._maps)
        left += [f"shared memory {name}" for name in _shared_memory() - self._shared_memory]
        return left


def _others() -> set[int]:
    """Return the processes below this one, but for those that stay."""
    # A fork server or resource tracker that was killed was replaced by another.
    stay = {
        fork_server.server.pid,
        resource_tracker._resource_tracker._pid,  # type: ignore[attr-defined]
    }
    return tree(os.getpid()) - stay


def _reap(pid: int, found: Stat) -> bool:
    """Reap what became ours when the process that should have done it was killed."""
    if found.state != "Z" or found.parent != os.getpid():
        return False
    with contextlib.suppress(ChildProcessError):
        return os.waitpid(pid, os.WNOHANG)[0] == pid
    return True


def _shared_memory() -> set[str]:
    """Return what has a name in shared memory; a pool never makes any."""
    mark = ("deadpool", "memfd", "psm_")
    return {path.name for path in Path("/dev/shm").iterdir() if path.name.startswith(mark)}
