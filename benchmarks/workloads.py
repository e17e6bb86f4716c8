"""What is measured: each workload takes a peer and returns one or more figures.

A workload runs in a process that does nothing else and is thrown away afterwards. ``METRICS`` says
of each figure what it is, whether more of it is better, and what Deadpool is to reach.
"""

from __future__ import annotations

import os
import signal
import statistics
import tempfile
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import procinfo
import tasks
from peers import OURS, PEERS, Executor, NotSupportedError

Figures = dict[str, float | str]
Workload = Callable[[type[Executor], "Scale"], Figures]


@dataclass(frozen=True)
class Metric:
    """A figure: its label with the unit, and the ratio to the best peer that is to be reached.

    :param target: At least this ratio if more is better, else at most this one; an absolute value
        if ``is_absolute``.
    """

    label: str
    is_more_better: bool
    target: float | None = None
    is_absolute: bool = False


METRICS = {
    "noop": Metric("no-op tasks, 1/s", True, 4.0),
    "noop_over_pure": Metric(
        "no-op tasks, over those of the pure-Python release", True, 25.0, True
    ),
    "noop_timed": Metric("no-op tasks with a timeout each, 1/s", True),
    "timed_share": Metric("no-op tasks with a timeout each, over those without", True, 0.9, True),
    "round_trip_p50": Metric("one round trip, p50, µs", False, 0.55),
    "round_trip_p99": Metric("one round trip, p99, µs", False, 0.7),
    "map_1": Metric("map, chunksize 1, items/s", True, 3.0),
    "map_100": Metric("map, chunksize 100, items/s", True, 1.2),
    "echo_1mb": Metric("echo 1 MB bytes, MB/s both ways", True, 2.0),
    "echo_64mb": Metric("echo 64 MB array, MB/s both ways", True, 12.0),
    "first_pool": Metric("first result of the first pool, ms", False, 0.8),
    "later_pool": Metric("first result of a later pool, ms", False, 0.5),
    "process_each": Metric("a new process for each task, 1/s", True, 3.0),
    "overshoot_p50": Metric("timeout of 0.2 s: overshoot p50, ms", False, 1.0, True),
    "overshoot_max": Metric("timeout of 0.2 s: overshoot max, ms", False, 10.0, True),
    "gil_timeout": Metric("timeout of 1 s in C that holds the GIL, s", False),
    "killed": Metric("worker killed: its future fails after, ms", False, 1.0, True),
    "idle_cpu": Metric("16 idle workers: CPU, ms/s", False, 0.0, True),
    "idle_wakeups": Metric("16 idle workers: wake-ups, 1/s", False, 0.0, True),
    "idle_private": Metric("16 idle workers: private MB each", False, 0.6),
    "idle_threads": Metric("16 idle workers: threads of the pool in the parent", False, 3.0, True),
    "pending_submit": Metric("100,000 pending: µs per submit", False, 0.5),
    "pending_bytes": Metric("100,000 pending: bytes each", False, 0.45),
    "cpu_2": Metric("parent CPU per no-op, 2 workers, µs", False),
    "cpu_16": Metric("parent CPU per no-op, 16 workers, µs", False),
    "cpu_64": Metric("parent CPU per no-op, 64 workers, µs", False),
    "cpu_256": Metric("parent CPU per no-op, 256 workers, µs", False),
    "cpu_spread": Metric(
        "parent CPU per no-op: the most of these over the least", False, 1.3, True
    ),
    "many_start": Metric("1,000 workers: start, s", False),
    "many_tasks": Metric("1,000 workers: 100,000 tasks, 1/s", True),
    "many_idle_cpu": Metric("1,000 workers: idle CPU, ms/s", False, 0.0, True),
    "many_shutdown": Metric("1,000 workers: shutdown, s", False),
    "million_growth": Metric("a million tasks: parent grows by, MB", False, 2.0, True),
    "million_fds": Metric("a million tasks: descriptors more", False, 0.0, True),
    "million_threads": Metric("a million tasks: threads more", False, 0.0, True),
}


# Figures of ours that follow from two others: what is divided by what of whom.
QUOTIENTS = {
    "noop_over_pure": ("noop", "noop", "pure-python"),
    "timed_share": ("noop_timed", "noop", OURS),
}


@dataclass(frozen=True)
class Scale:
    """How much to do: enough for a figure, or just enough to see that it works."""

    is_tiny: bool

    def count(self, count: int) -> int:
        """Return how often to do something."""
        return max(count // 50, 2) if self.is_tiny else count

    @property
    def seconds(self) -> float:
        """Return about how long a measured stretch is to last."""
        return 0.02 if self.is_tiny else 1.5


def warm(peer: Executor, workers: int) -> None:
    """Wait until all workers run."""
    futures = [peer.submit(tasks.nap, 0.02) for _ in range(workers * 3)]
    for future in futures:
        peer.result(future)


def rate_of(run: Callable[[int], None], scale: Scale, first: int = 500) -> float:
    """Return how many a second `run` does, doing as many as fill the time."""
    count = scale.count(first)
    while True:
        begun = time.perf_counter()
        run(count)
        seconds = time.perf_counter() - begun
        if scale.is_tiny or seconds >= scale.seconds * 0.6:
            return count / seconds
        count = int(count * min(max(scale.seconds / seconds, 1.5), 20.0))


def submit_and_wait(peer: Executor, count: int, submit: Callable[..., Any] | None = None) -> None:
    """Submit no-op tasks one by one, then read all results."""
    submit = submit or peer.submit
    nothing, result = tasks.nothing, peer.result
    futures = [submit(nothing) for _ in range(count)]
    for future in futures:
        result(future)


def noop(kind: type[Executor], scale: Scale) -> Figures:
    """Measure tasks that do nothing, submitted one by one."""
    peer = kind(2)
    warm(peer, 2)
    rate = rate_of(lambda count: submit_and_wait(peer, count), scale)
    peer.close()
    return {"noop": rate}


def noop_timed(kind: type[Executor], scale: Scale) -> Figures:
    """Measure the same with a timeout on each that none reaches."""
    peer = kind(2)
    warm(peer, 2)

    def submit(fn: Any) -> Any:
        return peer.submit_timed(60.0, fn)

    rate = rate_of(lambda count: submit_and_wait(peer, count, submit), scale)
    peer.close()
    return {"noop_timed": rate}


def round_trip(kind: type[Executor], scale: Scale) -> Figures:
    """Measure one task at a time, from submit to the result."""
    peer = kind(2)
    warm(peer, 2)
    times = []
    for _ in range(scale.count(4000)):
        begun = time.perf_counter()
        peer.result(peer.submit(tasks.nothing))
        times.append((time.perf_counter() - begun) * 1e6)
    peer.close()
    times = sorted(times[len(times) // 10 :])
    return {
        "round_trip_p50": times[len(times) // 2],
        "round_trip_p99": times[min(int(len(times) * 0.99), len(times) - 1)],
    }


def map_items(kind: type[Executor], scale: Scale, chunksize: int) -> float:
    """Return how many items a second `map` does."""
    peer = kind(2)
    warm(peer, 2)
    first = 500 * chunksize
    rate = rate_of(lambda n: peer.map(tasks.nothing, range(n), chunksize) and None, scale, first)
    peer.close()
    return rate


def map_1(kind: type[Executor], scale: Scale) -> Figures:
    """Measure map with a task for each item."""
    return {"map_1": map_items(kind, scale, 1)}


def map_100(kind: type[Executor], scale: Scale) -> Figures:
    """Measure map with a task for a hundred items."""
    return {"map_100": map_items(kind, scale, 100)}


def echo_rate(kind: type[Executor], scale: Scale, value: Any, size_bytes: int) -> float:
    """Return megabytes a second, there and back, of one task at a time."""
    peer = kind(2)
    warm(peer, 2)
    peer.result(peer.submit(tasks.echo, value))

    def run(count: int) -> None:
        for _ in range(count):
            peer.result(peer.submit(tasks.echo, value))

    rate = rate_of(run, scale, 4)
    peer.close()
    return rate * 2 * size_bytes / 1e6


def echo_1mb(kind: type[Executor], scale: Scale) -> Figures:
    """Measure a megabyte of bytes, there and back."""
    return {"echo_1mb": echo_rate(kind, scale, bytes(10**6), 10**6)}


def echo_64mb(kind: type[Executor], scale: Scale) -> Figures:
    """Measure an array of 64 MB, there and back."""
    import numpy

    size_bytes = 64 * 10**6
    return {"echo_64mb": echo_rate(kind, scale, numpy.ones(size_bytes // 8), size_bytes)}


def first_result(kind: type[Executor], scale: Scale) -> Figures:
    """Measure from nothing to the first result, in the first pool of a process and in later ones."""
    times = []
    for _ in range(1 + max(scale.count(12), 2)):
        begun = time.perf_counter()
        peer = kind(2)
        peer.result(peer.submit(tasks.nothing))
        times.append((time.perf_counter() - begun) * 1e3)
        peer.close()
    return {"first_pool": times[0], "later_pool": statistics.median(times[1:])}


def process_each(kind: type[Executor], scale: Scale) -> Figures:
    """Measure tasks that get a process of their own each."""
    peer = kind(2, tasks_per_child=1)
    peer.result(peer.submit(tasks.nothing))
    rate = rate_of(lambda count: submit_and_wait(peer, count), scale, 20)
    peer.close()
    return {"process_each": rate}


def overshoot(kind: type[Executor], scale: Scale) -> Figures:
    """Measure by how much a timeout is late."""
    peer = kind(2)
    late = []
    for _ in range(scale.count(20)):
        # Let the successors of killed workers come up first, so that starting is not measured.
        warm(peer, 2)
        begun = time.perf_counter()
        if ends_well(peer, peer.submit_timed(0.2, tasks.nap, 5.0), 4.0):
            return {"overshoot_p50": "not enforced"}
        late.append((time.perf_counter() - begun - 0.2) * 1e3)
    return {"overshoot_p50": statistics.median(late), "overshoot_max": max(late)}


def ends_well(peer: Executor, future: Any, limit_seconds: float) -> bool:
    """Wait for a future that should fail; tell whether it did not."""
    try:
        peer.result(future, limit_seconds)
    except Exception:
        return False
    return True


def gil_timeout(kind: type[Executor], scale: Scale) -> Figures:
    """Measure a timeout of a second in C code that holds the GIL, for some ten seconds."""
    del scale
    peer = kind(2)
    warm(peer, 2)
    begun = time.perf_counter()
    ends_well(peer, peer.submit_timed(1.0, tasks.hold_the_gil, 28), 15.0)
    return {"gil_timeout": time.perf_counter() - begun}


def killed(kind: type[Executor], scale: Scale) -> Figures:
    """Measure from a worker's SIGKILL to the failure of its future, and whether the pool lives."""
    peer = kind(2)
    times = []
    with tempfile.TemporaryDirectory() as directory:
        for turn in range(scale.count(20)):
            path = Path(directory, str(turn))
            try:
                warm(peer, 2)
            except Exception:
                return {"killed": "pool breaks"}
            future = peer.submit(tasks.linger, str(path))
            while not path.exists():
                time.sleep(0.001)
            # It must have come to its rest.
            time.sleep(0.01)
            pid = int(path.read_text())
            begun = time.perf_counter()
            os.kill(pid, signal.SIGKILL)
            ends_well(peer, future, 3.0)
            lost_seconds = time.perf_counter() - begun
            if lost_seconds > 2.5:
                return {"killed": "hangs"}
            times.append(lost_seconds * 1e3)
    return {"killed": statistics.median(times)}


def idle(kind: type[Executor], scale: Scale) -> Figures:
    """Measure what a pool costs that has nothing to do."""
    own_threads = procinfo.status_number("self", "Threads")
    peer = kind(16)
    warm(peer, 16)
    workers = {peer.result(future) for future in [peer.submit(tasks.nap, 0.05) for _ in range(64)]}
    time.sleep(0.1 if scale.is_tiny else 1.0)
    cpu_ms, wakeups = procinfo.activity(0.1 if scale.is_tiny else 3.0)
    private = [procinfo.private_bytes(pid) / 1e6 for pid in workers]
    return {
        "idle_cpu": cpu_ms,
        "idle_wakeups": wakeups,
        "idle_private": statistics.median(private),
        "idle_threads": procinfo.status_number("self", "Threads") - own_threads,
    }


def pending(kind: type[Executor], scale: Scale) -> Figures:
    """Measure what a task costs that waits."""
    peer = kind(2)
    warm(peer, 2)
    with tempfile.TemporaryDirectory() as directory:
        busy = [peer.submit(tasks.wait_for, f"{directory}/go") for _ in range(2)]
        submit_and_keep(peer, 200)
        time.sleep(0.2)
        count = scale.count(100_000)
        before = procinfo.resident_bytes("self")
        begun = time.perf_counter()
        futures = submit_and_keep(peer, count)
        seconds = time.perf_counter() - begun
        # What was handed over may still be in another thread's hands.
        time.sleep(0.5)
        size_bytes = procinfo.resident_bytes("self") - before
        Path(directory, "go").touch()
        for future in [*busy, *futures[:10]]:
            peer.result(future)
    return {"pending_submit": seconds / count * 1e6, "pending_bytes": size_bytes / count}


def submit_and_keep(peer: Executor, count: int) -> list[Any]:
    """Submit and return the futures."""
    return [peer.submit(tasks.nothing) for _ in range(count)]


def parent_cpu(kind: type[Executor], scale: Scale) -> Figures:
    """Measure the parent's CPU time for a task with more and more workers."""
    costs = {}
    failure: Figures = {}
    for workers in (2, 16) if scale.is_tiny else (2, 16, 64, 256):
        peer = kind(workers)
        count = scale.count(20_000)
        try:
            warm(peer, workers)
            submit_and_wait(peer, count // 10)
            begun = time.process_time()
            submit_and_wait(peer, count)
        except Exception:
            failure[f"cpu_{workers}"] = "fails"
            continue
        costs[f"cpu_{workers}"] = (time.process_time() - begun) / count * 1e6
        peer.close()
    return {**costs, **failure, "cpu_spread": max(costs.values()) / min(costs.values())}


def many_workers(kind: type[Executor], scale: Scale) -> Figures:
    """Measure a thousand workers: start, tasks, idling, end."""
    only_ours(kind)
    count = 20 if scale.is_tiny else 1000
    begun = time.perf_counter()
    peer = kind(count)
    pids: set[int] = set()
    while len(pids) < count * 0.99:
        pids |= {peer.result(f) for f in [peer.submit(tasks.nap, 0.2) for _ in range(count)]}
    started = time.perf_counter() - begun
    begun = time.perf_counter()
    submit_and_wait(peer, scale.count(100_000))
    rate = scale.count(100_000) / (time.perf_counter() - begun)
    time.sleep(0.5)
    cpu_ms, _ = procinfo.activity(0.1 if scale.is_tiny else 3.0)
    begun = time.perf_counter()
    peer.close()
    return {
        "many_start": started,
        "many_tasks": rate,
        "many_idle_cpu": cpu_ms,
        "many_shutdown": time.perf_counter() - begun,
    }


def million(kind: type[Executor], scale: Scale) -> Figures:
    """Measure what is left in the parent after a million tasks."""
    only_ours(kind)
    peer = kind(2)
    warm(peer, 2)
    batch = scale.count(10_000)

    def state() -> tuple[int, int, int]:
        resident = procinfo.resident_bytes("self")
        return resident, procinfo.descriptors(), int(procinfo.status_number("self", "Threads"))

    for _ in range(5):
        submit_and_wait(peer, batch)
    before = state()
    for _ in range(2 if scale.is_tiny else 100):
        submit_and_wait(peer, batch)
    after = state()
    peer.close()
    return {
        "million_growth": (after[0] - before[0]) / 1e6,
        "million_fds": after[1] - before[1],
        "million_threads": after[2] - before[2],
    }


def only_ours(kind: type[Executor]) -> None:
    """Leave the peers out of what only says something about this project."""
    if kind is not PEERS[OURS]:
        raise NotSupportedError("measured for Deadpool alone")


def named(functions: Iterable[Workload]) -> dict[str, Workload]:
    """Return the workloads by name."""
    return {function.__name__: function for function in functions}


WORKLOADS = named(
    [
        *(noop, noop_timed, round_trip, map_1, map_100, echo_1mb, echo_64mb),
        *(first_result, process_each, overshoot, gil_timeout, killed),
        *(idle, pending, parent_cpu, many_workers, million),
    ]
)
