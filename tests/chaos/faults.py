"""The injector: what an unkind world does to the processes of a pool."""

from __future__ import annotations

import contextlib
import errno
import os
import random
import resource
import signal
import time
from collections import Counter
from collections.abc import Callable, Iterator
from multiprocessing import resource_tracker
from pathlib import Path
from typing import Any

import deadpool
from deadpool._start import fork_server, threads

from .model import Model

DEADLY = (signal.SIGKILL, signal.SIGTERM, signal.SIGSEGV)
# How long a worker is stopped, a descriptor wanted or a start refused, at most.
LONGEST_SECONDS = 0.4


class Injector:
    """Does one fault after the other.

    :param pause: The mean time between two faults, in seconds.
    """

    def __init__(self, pool: deadpool.Deadpool, model: Model, pause: float) -> None:
        self._pool = pool
        self._model = model
        self._pause = pause
        self._starts = _RefusedStarts()
        self.counts: Counter[str] = Counter()
        self.history: list[str] = []
        self._faults: dict[str, tuple[float, Callable[[random.Random], str | None]]] = {
            "kill": (10, self._kill),
            "stop": (3, self._stop),
            "zygote": (1, self._kill_zygote),
            "stop_zygote": (0.7, self._stop_zygote),
            "starve_zygote": (0.7, self._starve_zygote),
            "fork_server": (0.5, self._kill_fork_server),
            "tracker": (0.5, self._kill_tracker),
            "descriptors": (0.7, self._exhaust_descriptors),
            "starts": (0.7, self._refuse_starts),
        }

    def act(self, rng: random.Random) -> bool:
        """Do one fault after a while."""
        time.sleep(rng.expovariate(1 / self._pause))
        weights = [weight for weight, _ in self._faults.values()]
        name = rng.choices(list(self._faults), weights)[0]
        told = self._faults[name][1](random.Random(rng.random()))
        if told is not None:
            self.counts[told] += 1
            self.history.append(f"{time.monotonic():.3f} {told}")
        return True

    def _worker(self, rng: random.Random) -> tuple[int, str] | None:
        """Choose a worker, first by its state, since most are busy."""
        by_state: dict[str, list[int]] = {}
        for worker in self._pool.workers():
            if worker.pid is not None:
                by_state.setdefault(worker.state, []).append(worker.pid)
        if not by_state:
            return None
        state = rng.choice(sorted(by_state))
        return rng.choice(by_state[state]), state

    def _kill(self, rng: random.Random) -> str | None:
        chosen = self._worker(rng)
        number = rng.choice(DEADLY)
        if chosen is None:
            return None
        pid, state = chosen
        self._model.victims.add(pid)
        with _handle(pid) as process:
            if process is None:
                return None
            signal.pidfd_send_signal(process, number)
        return f"{number.name} while {state}"

    def _stop(self, rng: random.Random) -> str | None:
        chosen = self._worker(rng)
        seconds = rng.uniform(0.001, LONGEST_SECONDS)
        if chosen is None:
            return None
        pid, state = chosen
        with _handle(pid) as process:
            if process is None:
                return None
            signal.pidfd_send_signal(process, signal.SIGSTOP)
            time.sleep(seconds)
            with contextlib.suppress(ProcessLookupError):
                signal.pidfd_send_signal(process, signal.SIGCONT)
        return f"SIGSTOP, SIGCONT while {state}"

    def _zygote(self, rng: random.Random) -> int | None:
        chosen = self._worker(rng)
        return None if chosen is None else _parent(chosen[0])

    def _kill_zygote(self, rng: random.Random) -> str | None:
        pid = self._zygote(rng)
        if pid is None:
            return None
        with _handle(pid) as process:
            if process is None:
                return None
            self._model.family_killed = self._model.zygote_killed = True
            signal.pidfd_send_signal(process, signal.SIGKILL)
        return "zygote killed"

    def _stop_zygote(self, rng: random.Random) -> str | None:
        """Stop a zygote and leave it so: whoever needs it next has to let it go on."""
        pid = self._zygote(rng)
        with _handle(pid or 0) as process:
            if process is None:
                return None
            signal.pidfd_send_signal(process, signal.SIGSTOP)
        return "zygote stopped"

    def _starve_zygote(self, rng: random.Random) -> str | None:
        """Leave a zygote without descriptors, so that it can't make workers."""
        pid = self._zygote(rng)
        seconds = rng.uniform(0.01, LONGEST_SECONDS)
        with _handle(pid or 0) as process:
            if process is None or pid is None:
                return None
            self._model.starved = self._model.family_killed = True
            try:
                before = resource.prlimit(pid, resource.RLIMIT_NOFILE)
                resource.prlimit(pid, resource.RLIMIT_NOFILE, (5, before[1]))
                time.sleep(seconds)
                resource.prlimit(pid, resource.RLIMIT_NOFILE, before)
            except ProcessLookupError:
                return None
        return "zygote without descriptors"

    def _kill_fork_server(self, rng: random.Random) -> str | None:
        pid = fork_server.server.pid
        return self._kill_other(pid, "fork server killed")

    def _kill_tracker(self, rng: random.Random) -> str | None:
        pid = resource_tracker._resource_tracker._pid  # type: ignore[attr-defined]
        return self._kill_other(pid, "resource tracker killed")

    def _kill_other(self, pid: int | None, told: str) -> str | None:
        with _handle(pid or 0) as process:
            if process is None:
                return None
            self._model.family_killed = True
            signal.pidfd_send_signal(process, signal.SIGKILL)
        return told

    def _exhaust_descriptors(self, rng: random.Random) -> str | None:
        seconds = rng.uniform(0.01, LONGEST_SECONDS)
        self._model.starved = self._model.family_killed = True
        soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
        taken: list[int] = []
        resource.setrlimit(resource.RLIMIT_NOFILE, (min(soft, 200), hard))
        try:
            with contextlib.suppress(OSError):
                while True:
                    taken.append(os.open("/dev/null", os.O_RDONLY | os.O_CLOEXEC))
            time.sleep(seconds)
        finally:
            for fd in taken:
                os.close(fd)
            resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
        return "no descriptors"

    def _refuse_starts(self, rng: random.Random) -> str | None:
        self._model.family_killed = True
        with self._starts.refused():
            self._pool.clear_workers()
            pid = self._zygote(rng)
            if pid is not None:
                self._model.zygote_killed = True
                self._kill_other(pid, "")
            time.sleep(rng.uniform(0.01, LONGEST_SECONDS))
        return "EAGAIN from process starts"


class _RefusedStarts:
    """Makes starts of processes fail as they do where there may be no more of them."""

    @contextlib.contextmanager
    def refused(self) -> Iterator[None]:
        start = threads.Threads._start_zygote

        def refuse(*_args: Any) -> int:
            raise BlockingIOError(errno.EAGAIN, os.strerror(errno.EAGAIN))

        threads.Threads._start_zygote = refuse  # type: ignore[method-assign]
        try:
            yield
        finally:
            threads.Threads._start_zygote = start  # type: ignore[method-assign]


@contextlib.contextmanager
def _handle(pid: int) -> Iterator[int | None]:
    """Hold on to a process below this one; None if it is gone. Nobody else's is ever hit."""
    try:
        process = os.pidfd_open(pid)
    except OSError:
        # It is gone, there is no room for a descriptor, or there never was one.
        yield None
        return
    try:
        yield process if _is_below(pid) else None
    except ProcessLookupError:
        pass
    finally:
        os.close(process)


def _is_below(pid: int) -> bool:
    while pid > 1:
        above = _parent(pid)
        if above is None:
            return False
        if above == os.getpid():
            return True
        pid = above
    return False


def _parent(pid: int) -> int | None:
    try:
        text = Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return None
    return int(text.rpartition(")")[2].split()[1])
