"""What no pool can be faster than on this machine: the parts of a task's way, one by one."""

from __future__ import annotations

import os
import pickle
import signal
import socket
import time
from concurrent.futures import Future

import tasks

FLOOR = {
    "socketpair": "a byte to another process and back over a socketpair, µs",
    "future": "Future made, call and result pickled, settled and read, in one process, µs",
    "death": "a fork of a Python process killed until its parent can wait for it, ms",
    "memcpy": "copying 64 MB between resident buffers, MB/s",
}


def measure(is_tiny: bool) -> dict[str, float | str]:
    """Return the figures of `FLOOR`."""
    count = 200 if is_tiny else 20_000
    return {
        "socketpair": socketpair_round_trip(count) * 1e6,
        "future": future_alone(count) * 1e6,
        "death": death(5 if is_tiny else 40) * 1e3,
        "memcpy": copy_rate(2 if is_tiny else 20) / 1e6,
    }


def socketpair_round_trip(count: int) -> float:
    """Return seconds of one round trip between two processes, the median of all."""
    here, there = socket.socketpair()
    pid = os.fork()
    if pid == 0:
        here.close()
        while data := there.recv(1):
            there.send(data)
        os._exit(0)
    there.close()
    times = []
    for _ in range(count):
        begun = time.perf_counter()
        here.send(b"x")
        here.recv(1)
        times.append(time.perf_counter() - begun)
    here.close()
    os.waitpid(pid, 0)
    return sorted(times)[count // 2]


def future_alone(count: int) -> float:
    """Return seconds that a task costs without any other process."""
    begun = time.perf_counter()
    for _ in range(count):
        future: Future[object] = Future()
        function, args, kwargs = pickle.loads(pickle.dumps((tasks.nothing, (), {}), 5))
        future.set_running_or_notify_cancel()
        future.set_result(pickle.loads(pickle.dumps(function(*args, **kwargs), 5)))
        future.result()
    return (time.perf_counter() - begun) / count


def death(count: int) -> float:
    """Return seconds from a SIGKILL until the end of the process is known, the median of all."""
    times = []
    for _ in range(count):
        pid = os.fork()
        if pid == 0:
            signal.pause()
        # It must have come to its rest.
        time.sleep(0.01)
        begun = time.perf_counter()
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)
        times.append(time.perf_counter() - begun)
    return sorted(times)[count // 2]


def copy_rate(count: int) -> float:
    """Return bytes a second from one resident buffer to another."""
    source, target = bytearray(b"x") * (64 * 10**6), bytearray(64 * 10**6)
    view = memoryview(target)
    view[:] = source
    begun = time.perf_counter()
    for _ in range(count):
        view[:] = source
    return count * len(source) / (time.perf_counter() - begun)
