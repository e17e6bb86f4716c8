"""The processes of a :class:`deadpool.pool.Pool`, as its users see them.

Told of each process by the completer; knows nothing of the pool, so that can be collected.
"""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Callable
from pathlib import Path

from .callbacks import Teller


class PoolProcess:
    """A worker process: a view with the names of :class:`multiprocessing.Process`.

    :param pid: Its process id.
    :param index: Its place in the pool, which its successor gets.
    """

    __module__ = "deadpool.pool"

    daemon = True

    def __init__(self, pid: int, index: int) -> None:
        self.pid = pid
        self.index = index
        self.name: str = f"PoolWorker-{index + 1}"
        self.exitcode: int | None = None
        self._gone = threading.Event()
        self._started = _start_time(pid)

    @property
    def ident(self) -> int:
        """The process id."""
        return self.pid

    def is_alive(self) -> bool:
        """Whether it has not exited."""
        return not self._gone.is_set()

    def join(self, timeout: float | None = None) -> None:
        """Wait until it has exited. Blocks."""
        self._gone.wait(timeout)

    def terminate(self) -> None:
        """Send it SIGTERM."""
        self.send_signal(signal.SIGTERM)

    def kill(self) -> None:
        """Send it SIGKILL."""
        self.send_signal(signal.SIGKILL)

    def send_signal(self, number: int) -> None:
        """Send it a signal, or do nothing if it is gone."""
        try:
            fd = os.pidfd_open(self.pid)
        except ProcessLookupError:
            return
        try:
            # The number may be another process's by now, but the descriptor stays with one.
            if self.is_alive() and _start_time(self.pid) == self._started:
                signal.pidfd_send_signal(fd, number)
        except ProcessLookupError:
            pass
        finally:
            os.close(fd)

    def __repr__(self) -> str:
        state = "started" if self.is_alive() else f"stopped exitcode={self.exitcode}"
        return f"<PoolProcess name={self.name!r} pid={self.pid} {state}>"


class Processes:
    """The processes of one pool.

    :param teller: What makes the calls.
    :param on_up: Called with each that was started.
    :param on_down: Called with each that has exited.
    """

    def __init__(
        self,
        teller: Teller,
        on_up: Callable[[PoolProcess], object] | None,
        on_down: Callable[[PoolProcess], object] | None,
    ) -> None:
        self._teller = teller
        self._on_up = on_up
        self._on_down = on_down
        self._changed = threading.Condition()
        self._processes: dict[int, PoolProcess] = {}
        self._exits = 0
        # The signals that were sent to processes on request.
        self.asked: dict[int, int] = {}

    def up(self, pid: int) -> None:
        """Hear of a process that exists now."""
        with self._changed:
            taken = {process.index for process in self._processes.values()}
            index = next(i for i in range(len(taken) + 1) if i not in taken)
            process = self._processes[pid] = PoolProcess(pid, index)
            # Another process had the number then.
            self.asked.pop(pid, None)
            self._changed.notify_all()
        self._tell(self._on_up, process)

    def down(self, pid: int, exitcode: int | None) -> None:
        """Hear of a process that is gone."""
        with self._changed:
            process = self._processes.pop(pid, None)
            if process is None:
                return
            self._exits += 1
            process.exitcode = exitcode
            process._gone.set()
            self._changed.notify_all()
        self._tell(self._on_down, process)

    def _tell(self, callback: Callable[[PoolProcess], object] | None, process: PoolProcess) -> None:
        if callback is not None:
            self._teller.post(callback, process)

    def present(self) -> list[PoolProcess]:
        """Return those that exist, the oldest first."""
        with self._changed:
            return list(self._processes.values())

    def terminate_job(self, pid: int, number: int, timeout: float) -> None:
        """Send a signal to the process with this id, and remember that it was asked for.

        :param timeout: For how many seconds to wait to be told of the process. Blocks for so long.
        """
        with self._changed:
            if not self._changed.wait_for(lambda: pid in self._processes, timeout):
                return
            process = self._processes[pid]
            self.asked[pid] = int(number)
        process.send_signal(number)

    def wait_for(self, count: int, timeout: float) -> None:
        """Wait until there are so many. Blocks."""
        with self._changed:
            self._changed.wait_for(lambda: len(self._processes) >= count, timeout)

    def take_exits(self) -> int:
        """Return how many have exited since this was called last."""
        with self._changed:
            exits, self._exits = self._exits, 0
            return exits


def _start_time(pid: int) -> str | None:
    """Return when a process was started, in the kernel's words, by which it can be told from another."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return None
    # The second field is a name, which may hold anything; see proc(5).
    return stat.rpartition(")")[2].split()[19]
