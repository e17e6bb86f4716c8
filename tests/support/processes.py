"""Looking at processes, and waiting for what they do."""

from __future__ import annotations

import contextlib
import ctypes
import gc
import os
import signal
import subprocess
import sys
import textwrap
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, NamedTuple

from deadpool._start import fork_server

SUPPORT = Path(__file__).parent

# How long anything may take on a machine that is busy with other things.
LONG_SECONDS = 20.0
# After the death of its parent, how long a process may still be there.
ORPHAN_SECONDS = 1.0


def eventually(condition: Callable[[], Any], seconds: float = LONG_SECONDS) -> Any:
    """Wait until the condition is true, and return its value."""
    deadline = time.monotonic() + seconds
    while not (value := condition()):
        if time.monotonic() > deadline:
            raise AssertionError(f"still not true after {seconds:g} s: {value!r}")
        time.sleep(0.001)
    return value


def await_path(path: Path) -> str:
    """Wait for a file that a task makes, and return what is in it."""
    eventually(path.exists)
    return path.read_text()


def await_pids(path: Path) -> list[int]:
    return [int(pid) for pid in await_path(path).split()]


def await_pid(path: Path) -> int:
    (pid,) = await_pids(path)
    return pid


class Stat(NamedTuple):
    """What the kernel says of a process."""

    state: str
    parent: int
    session: int


def stat(pid: int) -> Stat | None:
    """Look at a process; None if it is gone."""
    try:
        text = Path(f"/proc/{pid}/stat").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return None
    state, parent, _group, session = text.rpartition(")")[2].split()[:4]
    return Stat(state, int(parent), int(session))


def is_alive(pid: int) -> bool:
    found = stat(pid)
    return found is not None and found.state not in "ZX"


def await_death(pids: Iterable[int], seconds: float = ORPHAN_SECONDS) -> None:
    for pid in pids:
        eventually(lambda pid=pid: not is_alive(pid), seconds)


def tree(root: int) -> set[int]:
    """Return all processes below one."""
    children: dict[int, list[int]] = {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit() and (found := stat(int(entry.name))):
            children.setdefault(found.parent, []).append(int(entry.name))
    below: set[int] = set()
    pending = [root]
    while pending:
        for child in children.get(pending.pop(), ()):
            below.add(child)
            pending.append(child)
    return below


def command_line(pid: int) -> str:
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode()
    except OSError:
        return "?"


def become_subreaper() -> None:
    """Let orphans of the processes that are started here become children of this one."""
    pr_set_child_subreaper = 36
    if ctypes.CDLL(None, use_errno=True).prctl(pr_set_child_subreaper, 1, 0, 0, 0) != 0:
        raise OSError(ctypes.get_errno(), "prctl failed")


def reap_orphans(pids: Iterable[int]) -> None:
    """Wait for dead processes that have become ours."""
    for pid in pids:
        with contextlib.suppress(ChildProcessError):
            eventually(lambda pid=pid: os.waitpid(pid, os.WNOHANG)[0] == pid)


def threads_of_pools() -> list[str]:
    """Return the names of pools' threads, those that Python does not know among them."""
    names = [thread.name for thread in threading.enumerate()]
    for task in Path("/proc/self/task").iterdir():
        with contextlib.suppress(OSError):
            names.append(task.joinpath("comm").read_text().strip())
    return [name for name in names if name.startswith("deadpool-")]


def await_rest() -> None:
    """Wait until the supervisors of this process sleep for good, as those of idle pools do."""
    before = None
    # The wait for something to happen takes a quarter of a second, before they do.
    while before != (before := _switches_of_supervisors()):
        time.sleep(0.8)


def _switches_of_supervisors() -> dict[str, str]:
    """Return what tells that a supervisor was awake, for each thread."""
    switches = {}
    for task in Path("/proc/self/task").iterdir():
        with contextlib.suppress(OSError):
            if task.joinpath("comm").read_text().strip() == "deadpool-super":
                lines = task.joinpath("status").read_text().splitlines()
                (switches[task.name],) = [line for line in lines if line.startswith("voluntary")]
    return switches


def descriptors() -> Counter[str]:
    """Return what the descriptors of this process are."""
    found: Counter[str] = Counter()
    for entry in Path("/proc/self/fd").iterdir():
        with contextlib.suppress(OSError):
            target = str(entry.readlink())
            # Sockets and pipes are told apart by numbers that mean nothing here.
            found[target.partition(":[")[0]] += 1
    return found


def maps() -> int:
    """Return how many mappings of pools' shared memory this process has."""
    return Path("/proc/self/maps").read_text().count("/memfd:deadpool")


class Leaks:
    """What is there before a test, to be compared with what is there after it."""

    def __init__(self) -> None:
        self._processes = tree(os.getpid())
        self._descriptors = descriptors()
        self._maps = maps()

    def check(self) -> None:
        """Fail if anything is left."""
        deadline = time.monotonic() + 5
        while left := self._left():
            if time.monotonic() > deadline:
                raise AssertionError(f"left behind: {left}")
            gc.collect()
            time.sleep(0.005)

    def _left(self) -> list[str]:
        left = [f"thread {name}" for name in threads_of_pools()]
        # A fork server that was killed was replaced by another.
        for pid in tree(os.getpid()) - self._processes - {fork_server.server.pid}:
            found = stat(pid)
            if found is not None and not self._reap_orphan(pid, found):
                left.append(f"process {pid} {found}: {command_line(pid)}")
        more = descriptors() - self._descriptors
        left += [f"{count} descriptors of {what}" for what, count in more.items()]
        left += ["a mapping of shared memory"] * (maps() - self._maps)
        return left

    def _reap_orphan(self, pid: int, found: Stat) -> bool:
        """Reap what was left by a script, which has a session of its own."""
        if found.state != "Z" or found.session == os.getsid(0):
            return False
        with contextlib.suppress(ChildProcessError):
            return os.waitpid(pid, os.WNOHANG)[0] == pid
        return False


def write_script(directory: Path, body: str, head: str = "") -> Path:
    """Write a script whose main module can be imported by its workers.

    :param body: What it does, and those who import it do not.
    :param head: What both do.
    """
    path = directory / "script.py"
    path.write_text(
        "import os, signal, sys, threading, time, warnings\n"
        # Python 3.12 and later warn of what these tests are about.
        "warnings.filterwarnings('ignore', '.*fork', DeprecationWarning)\n"
        "from pathlib import Path\n"
        f"sys.path.insert(0, {str(SUPPORT)!r})\n"
        "import deadpool, tasks\n"
        # A shell that runs the tests in the background has SIGINT ignored, and so have its children.
        "signal.signal(signal.SIGINT, signal.default_int_handler)\n"
        + textwrap.dedent(head)
        + "\ndef main(here):\n"
        + textwrap.indent(textwrap.dedent(body), "    ")
        + "\nif __name__ == '__main__':\n    main(Path(sys.argv[1]))\n"
    )
    return path


def start_script(
    directory: Path, body: str, *, head: str = "", **options: Any
) -> subprocess.Popen[str]:
    """Start a script in a new session; it finds the directory as ``here``."""
    command = [sys.executable, str(write_script(directory, body, head)), str(directory)]
    return subprocess.Popen(
        command,
        start_new_session=True,
        text=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        **options,
    )


def run_script(directory: Path, body: str, *, head: str = "") -> tuple[str, str]:
    """Run a script to its good end, and return what it printed."""
    with start_script(directory, body, head=head) as process:
        try:
            out, err = process.communicate(timeout=40)
        except BaseException:
            kill_session(process)
            raise
    assert process.returncode == 0, f"{process.returncode}\n{out}\n{err}"
    return out, err


def kill_session(process: subprocess.Popen[str]) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
