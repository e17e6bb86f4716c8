"""What was asked for, what came, and what is wrong with it."""

from __future__ import annotations

import concurrent.futures
import errno
import threading
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import deadpool

from .work import Order

# Errors that a worker has where the parent's limits were in force when it was forked.
_STARVED = {errno.EMFILE, errno.ENFILE, errno.EAGAIN, errno.ENOMEM}


@dataclass
class Entry:
    """A task that the pool took."""

    number: int
    order: Order
    future: deadpool.Future
    # How often its done-callback was called, and its pid-callback.
    ends: int = 0
    begins: int = 0
    # Somebody called a method that may cancel it.
    given_up: bool = False


@dataclass
class Model:
    """Keeps the books of one run.

    :param log: Where tasks note that they have begun.
    """

    log: Path
    entries: list[Entry] = field(default_factory=list)
    # Processes that the injector sent a signal which may kill.
    victims: set[int] = field(default_factory=set)
    # A process other than a worker was killed, or starts were made to fail: tasks that no worker had
    # may have had none to run on.
    family_killed: bool = False
    starved: bool = False
    zygote_killed: bool = False
    closed: bool = False
    most_workers: int = 0
    # Tasks that were submitted without being entered.
    probes: int = 0
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def enter(self, number: int, order: Order, future: deadpool.Future) -> Entry:
        """Note a task that was submitted, and count its callbacks."""
        entry = Entry(number, order, future)
        with self._lock:
            self.entries.append(entry)
        future.add_pid_callback(lambda _: self._count(entry, "begins"))
        future.add_done_callback(lambda _: self._count(entry, "ends"))
        return entry

    def _count(self, entry: Entry, name: str) -> None:
        with self._lock:
            setattr(entry, name, getattr(entry, name) + 1)

    def snapshot(self) -> list[Entry]:
        """Return the tasks so far."""
        with self._lock:
            return list(self.entries)

    def pending(self) -> list[Entry]:
        """Return what has not ended."""
        return [entry for entry in self.snapshot() if not entry.future.done()]

    def problems(self, statistics: dict[str, int]) -> list[str]:
        """Say all that is wrong, once everything has ended."""
        found = []
        begun = self._begun()
        for entry in self.entries:
            problem = self._judge(entry)
            if problem:
                found.append(f"task {entry.number} ({entry.order.kind}): {problem}")
            if begun[entry.number] > 1 + entry.order.retries:
                found.append(f"task {entry.number} was begun {begun[entry.number]} times")
        return found + self._wrong_statistics(statistics, begun)

    def ends(self) -> Counter[str]:
        """Count how the tasks ended."""
        return Counter(_kind_of_end(entry.future) for entry in self.entries)

    def _begun(self) -> Counter[int]:
        return Counter(int(line.split()[0]) for line in self.log.read_text().splitlines())

    def _judge(self, entry: Entry) -> str | None:
        future, order = entry.future, entry.order
        if not future.done():
            return "never ended"
        if entry.ends != 1:
            return f"its done-callback was called {entry.ends} times"
        if entry.begins > 1:
            return f"its pid-callback was called {entry.begins} times"
        if future.cancelled():
            allowed = entry.given_up or self.closed
            return None if allowed else "was cancelled, and nobody had asked for it"
        error = future.exception()
        if error is None:
            good = not isinstance(order.end, type) and future.result() == order.end
            return None if good else f"returned {_short(future.result())}"
        expected = isinstance(order.end, type) and isinstance(error, order.end)
        if type(error) is deadpool.SoftTimeoutError:
            # It may come before the task is ready to catch it.
            expected = "deadpool_soft_timeout" in order.options
        if expected or self._is_disturbed(error, order):
            return None
        return f"ended with {_short(error)}"

    def _is_disturbed(self, error: BaseException, order: Order) -> bool:
        """Whether faults explain an error."""
        if isinstance(error, deadpool.TimeoutError):
            return order.has_deadline
        if isinstance(error, deadpool.ProcessError):
            # A pool that is closed does not run again what its retries are left for.
            given_up = self.closed and order.retries > 0
            not_run = self.family_killed and error.pid is None
            return not_run or error.pid in self.victims or self.starved or given_up
        return (
            self.starved
            and isinstance(error, (OSError, ImportError, MemoryError))
            and (getattr(error, "errno", errno.EMFILE) in _STARVED)
        )

    def _wrong_statistics(self, statistics: dict[str, int], begun: Counter[int]) -> list[str]:
        ends = Counter(
            "cancelled" if entry.future.cancelled() else entry.future.exception() is not None
            for entry in self.entries
            # An error in unpickling a result is found in the parent, after the counting.
            if entry.order.kind != "return_failing"
        )
        odd = sum(entry.order.kind == "return_failing" for entry in self.entries)
        received, launched = statistics["tasks_received"], statistics["tasks_launched"]
        failed = statistics["tasks_failed"]
        checks = {
            "received": received == len(self.entries) + self.probes,
            "launched": len(begun) <= launched <= received,
            "failed": ends[True] <= failed <= ends[True] + ends["cancelled"] + odd,
            "alive": statistics["worker_processes_still_alive"] == 0,
            "idle": statistics["worker_processes_idle"] == 0,
            "busy": statistics["worker_processes_busy"] == 0,
            "concurrency": statistics["max_workers_busy_concurrently"] <= self.most_workers,
        }
        wrong = [name for name, holds in checks.items() if not holds]
        counts = f"{len(self.entries)} submitted, {len(begun)} begun, ends {dict(ends)}"
        return [f"statistics are wrong in {wrong}: {statistics}; {counts}"] if wrong else []


def _kind_of_end(future: concurrent.futures.Future[Any]) -> str:
    if not future.done():
        return "pending"
    if future.cancelled():
        return "cancelled"
    error = future.exception()
    return "returned" if error is None else type(error).__name__


def _short(thing: object) -> str:
    text = f"{type(thing).__name__} {thing!r}" if isinstance(thing, BaseException) else repr(thing)
    return text[:300]
