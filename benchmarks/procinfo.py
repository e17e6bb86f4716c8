"""What the kernel says of this process and its descendants."""

from __future__ import annotations

import os
import threading
import time
from pathlib import Path


def status_number(pid: int | str, key: str) -> int:
    """Return a number from a process's status file."""
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith(f"{key}:"):
            return int(line.split()[1])
    return 0


def resident_bytes(pid: int | str) -> int:
    """Return the resident memory of a process."""
    return status_number(pid, "VmRSS") * 1024


def private_bytes(pid: int) -> int:
    """Return the memory that a process shares with no other."""
    lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
    return sum(int(line.split()[1]) * 1024 for line in lines if line.startswith("Private_"))


def descriptors() -> int:
    """Return how many descriptors this process has open."""
    return len(os.listdir("/proc/self/fd"))  # noqa: PTH208


def family() -> list[int]:
    """Return this process and all its descendants."""
    parents: dict[int, list[int]] = {}
    for entry in os.listdir("/proc"):  # noqa: PTH208
        if entry.isdigit():
            try:
                stat = Path(f"/proc/{entry}/stat").read_text()
            except OSError:
                continue
            parents.setdefault(int(stat.rpartition(")")[2].split()[1]), []).append(int(entry))
    found = [os.getpid()]
    for pid in found:
        found += parents.get(pid, [])
    return found


def activity(seconds: float) -> tuple[float, float]:
    """Return CPU milliseconds and wake-ups a second of all threads but the calling one.

    A wake-up is a voluntary context switch of a thread: it slept, and something woke it.
    """
    pids = family()
    before = [usage(pid) for pid in pids]
    time.sleep(seconds)
    after = [usage(pid) for pid in pids]
    cpu_ns = sum(b[0] - a[0] for a, b in zip(before, after, strict=True))
    woken = sum(b[1] - a[1] for a, b in zip(before, after, strict=True))
    return max(cpu_ns, 0) / 1e6 / seconds, max(woken, 0) / seconds


def usage(pid: int) -> tuple[int, int]:
    """Return nanoseconds of CPU and voluntary context switches of a process's threads."""
    cpu_ns = woken = 0
    for task in tasks_of(pid):
        try:
            cpu_ns += int((task / "schedstat").read_text().split()[0])
            text = (task / "status").read_text()
        except (OSError, IndexError, ValueError):
            continue
        woken += int(text.partition("\nvoluntary_ctxt_switches:")[2].split()[0])
    return cpu_ns, woken


def tasks_of(pid: int) -> list[Path]:
    """Return the directories of a process's threads, without the one that asks."""
    own = str(threading.get_native_id())
    try:
        return [task for task in Path(f"/proc/{pid}/task").iterdir() if task.name != own]
    except OSError:
        return []
