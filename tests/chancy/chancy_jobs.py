"""Jobs, which Chancy's workers find by their names.

Annotations are not put off here, since Chancy looks for its own among them.
"""

import asyncio
import ctypes
import mmap
import multiprocessing
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from chancy import Limit, QueuedJob, job

MIB = 1 << 20


def seconds(value: float) -> Limit:
    return Limit(Limit.Type.TIME, value)


def memory(value: int) -> Limit:
    return Limit(Limit.Type.MEMORY, value)


def note(path: str, text: object = "") -> None:
    """Make a file appear with all that is in it."""
    new = Path(f"{path}.{os.getpid()}")
    new.write_text(str(text))
    new.rename(path)


def spin_in_c() -> None:
    re.match(r"(a+)+$", "a" * 60 + "b")


@job()
def nothing() -> None:
    pass


@job()
def add(a: int, b: int, *, context: QueuedJob) -> int:
    context.meta["sum"] = a + b
    return a + b


@job()
async def add_later(a: int, b: int, *, context: QueuedJob) -> int:
    await asyncio.sleep(0)
    context.meta["sum"] = a + b
    return a + b


@job()
def tell(*, context: QueuedJob) -> None:
    """Leave in the job's meta what it can see of itself and of its process."""
    context.meta.update(
        id=str(context.id),
        attempts=context.attempts,
        pid=os.getpid(),
        environ=os.environ.get("COLOUR"),
        ancestors=ancestors(),
    )


def ancestors() -> list[str]:
    """Return the command lines of this process and those above it."""
    lines, pid = [], os.getpid()
    while pid > 1:
        lines.append(Path(f"/proc/{pid}/cmdline").read_text().replace("\0", " "))
        pid = int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])
    return lines


@job()
def fail(message: str) -> None:
    raise KeyError(message)


@job()
def exit_with(code: int) -> None:
    sys.exit(code)


@job()
def fail_with(code: str) -> None:
    """Fail with an exception that a piece of Python makes."""
    raise eval(code)


@job()
def leave(code: str, *, context: QueuedJob) -> None:
    """Leave in the job's meta what a piece of Python makes."""
    context.meta["before"] = 1
    context.meta["value"] = eval(code)


@job()
def leave_errors(code: str, *, context: QueuedJob) -> None:
    """Leave among the job's errors what a piece of Python makes."""
    context.errors.append(eval(code))


class UnpicklableError(Exception):
    def __init__(self, one: int, two: int) -> None:
        super().__init__("only one argument is kept")


@job()
def fail_unpicklably() -> None:
    raise UnpicklableError(1, 2)


@job()
def return_unpicklable() -> Any:
    return lambda: None


@job()
def fail_until(path: str, times: int) -> None:
    """Fail as often as is said; how often is counted in a file."""
    with Path(path).open("a") as file:
        file.write("x")
    if len(Path(path).read_text()) <= times:
        raise RuntimeError("not yet")


@job()
def die_until(path: str, times: int) -> None:
    with Path(path).open("a") as file:
        file.write("x")
    if len(Path(path).read_text()) <= times:
        os.kill(os.getpid(), signal.SIGKILL)


@job()
def append(path: str, number: int) -> None:
    """Leave a trace that tells of each time this was run."""
    with Path(path).open("a") as file:
        file.write(f"{number}\n")
    time.sleep(0.002)


@job()
def stamp(*, context: QueuedJob) -> None:
    context.meta["at"] = time.time()


@job()
def kill_itself(number: int) -> None:
    os.kill(os.getpid(), number)


@job()
def segfault() -> None:
    ctypes.string_at(0)


@job()
def add_in_children(*, context: QueuedJob) -> None:
    """Use processes of the standard library."""
    with multiprocessing.get_context("fork").Pool(2) as pool:
        context.meta["sum"] = sum(pool.map(abs, range(-3, 1)))


@job()
def hold(begun: str, *, release: str | None = None) -> None:
    """Say that it has begun, and by which process; go on for long, or until a file is there."""
    note(begun, os.getpid())
    while release is None or not Path(release).exists():
        time.sleep(0.005)


@job()
def hold_in_c(begun: str) -> None:
    note(begun, os.getpid())
    spin_in_c()


@job()
async def hold_in_a_coroutine(begun: str) -> None:
    note(begun, os.getpid())
    await asyncio.sleep(3600)


@job()
def hold_with_children(begun: str) -> None:
    """Start a child and a grandchild that has left home, and hold."""
    child = subprocess.Popen(["sleep", "3600"])
    away = subprocess.run(
        ["sh", "-c", "setsid sleep 3600 >/dev/null 2>&1 & echo $!"],
        check=True,
        capture_output=True,
        text=True,
    )
    note(begun, f"{os.getpid()} {child.pid} {away.stdout}")
    time.sleep(3600)


@job()
def hold_stubbornly(begun: str) -> None:
    for number in (signal.SIGTERM, signal.SIGALRM, signal.SIGUSR1):
        signal.signal(number, signal.SIG_IGN)
    note(begun, os.getpid())
    while True:
        try:
            time.sleep(3600)
        except BaseException:
            continue


@job()
def allocate(mib: int, *, context: QueuedJob) -> None:
    """Allocate, and say whether that was refused."""
    try:
        kept = bytearray(b"x") * (mib * MIB)
    except MemoryError:
        context.meta["refused"] = True
        return
    context.meta["refused"] = False
    time.sleep(30 if mib > 100 else 0)
    del kept


@job()
def allocate_in_a_child(mib: int) -> None:
    code = f"import time; kept = bytearray(b'x') * ({mib} << 20); time.sleep(30)"
    subprocess.run([sys.executable, "-c", code], check=True)


@job()
def allocate_and_free(mib: int) -> None:
    # Address space alone; the pages are never touched.
    mmap.mmap(-1, mib * MIB).close()


@job()
def clean_up_when_interrupted(begun: str, left: str) -> None:
    note(begun, os.getpid())
    try:
        time.sleep(3600)
    except (TimeoutError, asyncio.CancelledError):
        note(left, os.getpid())
        raise


@job()
def read_setting(*, context: QueuedJob) -> None:
    """Read what a worker's set-up has prepared."""
    import django.conf
    from django.apps import apps

    context.meta["zone"] = django.conf.settings.TIME_ZONE
    context.meta["ready"] = apps.ready
