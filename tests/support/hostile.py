"""Tasks that do to their process what no task should."""

from __future__ import annotations

import contextlib
import ctypes
import os
import resource
import signal
import socket
import sys
import threading
import time
from pathlib import Path
from typing import Any

# As many bytes as no frame begins with.
GARBAGE = b"\xff\x00garbage" * 100


class OwnBaseError(BaseException):
    pass


def close_everything() -> str:
    os.closerange(0, 4096)
    return "closed"


def write_garbage_everywhere() -> str:
    for fd in range(3, 256):
        with contextlib.suppress(OSError):
            os.set_blocking(fd, False)
            os.write(fd, GARBAGE)
    return "written"


def scribble_over_shared_memory() -> str:
    """Fill every memfd and every shared mapping's file with ones."""
    for entry in Path("/proc/self/fd").iterdir():
        with contextlib.suppress(OSError):
            if "memfd:" in str(entry.readlink()):
                fd = int(entry.name)
                os.pwrite(fd, b"\xff" * os.fstat(fd).st_size, 0)
    return "scribbled"


def point_descriptors_elsewhere() -> str:
    """Put something else in the place of each descriptor."""
    null = os.open("/dev/null", os.O_RDWR)
    for fd in range(3, 256):
        if fd != null:
            with contextlib.suppress(OSError):
                os.fstat(fd)
                os.dup2(null, fd)
    return "replaced"


def shut_sockets_down() -> str:
    for fd in range(3, 256):
        with contextlib.suppress(OSError):
            found = socket.socket(fileno=os.dup(fd))
            found.shutdown(socket.SHUT_RDWR)
            found.close()
    return "shut down"


def make_everything_blocking() -> str:
    for fd in range(256):
        with contextlib.suppress(OSError):
            os.set_blocking(fd, not os.get_blocking(fd))
    return "toggled"


def fill_and_block_eventfds() -> str:
    """Leave no room in any eventfd that this process can write to, and make it wait for some."""
    for fd in range(256):
        with contextlib.suppress(OSError):
            if str(Path(f"/proc/self/fd/{fd}").readlink()) == "anon_inode:[eventfd]":
                os.set_blocking(fd, False)
                with contextlib.suppress(BlockingIOError):
                    os.eventfd_write(fd, 2**64 - 2)
                os.set_blocking(fd, True)
    return "filled"


def steal_from_eventfds(begun: Path, seconds: float) -> str:
    """Take what other processes are told by each eventfd, for a while, and make them wait for more."""
    eventfds = []
    for fd in range(256):
        with contextlib.suppress(OSError):
            if str(Path(f"/proc/self/fd/{fd}").readlink()) == "anon_inode:[eventfd]":
                eventfds.append(fd)
    begun.touch()
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        for fd in eventfds:
            os.set_blocking(fd, False)
            with contextlib.suppress(OSError):
                os.eventfd_read(fd)
            os.set_blocking(fd, True)
    return "stolen"


def leave_threads() -> str:
    for _ in range(20):
        threading.Thread(target=time.sleep, args=(3600,)).start()
    threading.Thread(target=_spin, daemon=True).start()
    return "left"


def _spin() -> None:
    while True:
        pass


def block_all_signals() -> str:
    signal.pthread_sigmask(signal.SIG_BLOCK, signal.valid_signals())
    return "blocked"


def replace_signal_handlers() -> str:
    for number in signal.valid_signals():
        with contextlib.suppress(OSError, ValueError):
            signal.signal(number, signal.SIG_IGN)
    return "replaced"


def become_session_leader() -> str:
    with contextlib.suppress(PermissionError):
        os.setsid()
    return "leads"


def move_away() -> str:
    os.chdir("/")
    os.umask(0o777)
    return "moved"


def lower_limits() -> str:
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (0, hard))
    return "lowered"


def forget_modules() -> str:
    for name in list(sys.modules):
        if name not in ("sys", "builtins"):
            sys.modules.pop(name)
    return "forgotten"


def leave_exception_hooks() -> str:
    sys.settrace(lambda *_: None)
    sys.setprofile(lambda *_: None)
    sys.setrecursionlimit(60)
    return "left"


def become_another_program(begun: Path) -> None:
    """Go on as a program that knows nothing of a pool."""
    begun.write_text(str(os.getpid()))
    os.execv("/bin/sleep", ["sleep", "3600"])


def stop_parent() -> str:
    os.kill(os.getppid(), signal.SIGSTOP)
    return "stopped"


def overflow_stack() -> Any:
    """Recurse in C, where no limit of Python's counts."""
    nested: Any = []
    for _ in range(3_000_000):
        nested = [nested]
    # Comparing goes down in C; older interpreters look at the limit there as well.
    sys.setrecursionlimit(2**31 - 1)
    other: Any = []
    for _ in range(3_000_000):
        other = [other]
    return nested == other


def fill_directory(path: Path) -> None:
    """Write until there is no room."""
    block = b"x" * (1 << 20)
    with path.open("wb", buffering=0) as file:
        while file.write(block):
            pass


def allocate_when_told(begun: Path, go: Path, size_bytes: int) -> int:
    begun.with_suffix(".part").write_text(str(os.getpid()))
    begun.with_suffix(".part").rename(begun)
    while not go.exists():
        time.sleep(0.001)
    return allocate(size_bytes)


def allocate(size_bytes: int) -> int:
    """Use so much memory, and be the first that the kernel kills for it."""
    Path("/proc/self/oom_score_adj").write_text("1000")
    return len(b"x" * size_bytes)


def raise_deep(depth: int) -> None:
    """Raise an exception with a long chain of causes."""
    error: BaseException = ValueError("first")
    for number in range(depth):
        try:
            raise KeyError(number) from error
        except KeyError as next_error:
            error = next_error
    raise error


def keep_forking(begun: Path) -> None:
    """Start a tree that renews itself as long as one of it is alive."""
    begun.write_text(str(os.getpid()))
    for _ in range(3):
        if os.fork() == 0:
            os.setsid()
            while True:
                # The child goes on in the place of this process.
                if os.fork() != 0:
                    time.sleep(0.002)
                    os._exit(0)
    time.sleep(3600)


def start_zombies(begun: Path, count: int) -> None:
    """Leave dead children that nobody waits for."""
    for _ in range(count):
        if os.fork() == 0:
            os._exit(0)
    begun.write_text(str(os.getpid()))
    time.sleep(3600)


def start_sibling(begun: Path) -> None:
    """Start a process that is no child of this one, but of its parent."""
    clone_parent = 0x8000
    clone = ctypes.CDLL(None).syscall
    # x86-64 has number 56; the newer architectures share 220.
    number = 56 if os.uname().machine == "x86_64" else 220
    pid = clone(number, clone_parent | signal.SIGCHLD, 0, 0, 0, 0)
    if pid == 0:
        time.sleep(3600)
    begun.with_suffix(".part").write_text(f"{os.getpid()} {pid}")
    begun.with_suffix(".part").rename(begun)
    time.sleep(3600)


def start_as_other_user(begun: Path) -> None:
    """Give up all rights, where there are any, and start a child."""
    with begun.open("w") as file:
        with contextlib.suppress(PermissionError):
            os.setgroups([])
            os.setresgid(65534, 65534, 65534)
            os.setresuid(65534, 65534, 65534)
        child = os.fork()
        if child == 0:
            time.sleep(3600)
        file.write(f"{os.getpid()} {child}")
    time.sleep(3600)


def start_stopped_tree(begun: Path) -> None:
    """Start a child and a grandchild, both stopped."""
    reader, writer = os.pipe()
    child = os.fork()
    if child == 0:
        grandchild = os.fork()
        if grandchild == 0:
            os.kill(os.getpid(), signal.SIGSTOP)
            time.sleep(3600)
        os.write(writer, b"%d" % grandchild)
        os.kill(os.getpid(), signal.SIGSTOP)
        time.sleep(3600)
    grandchild = int(os.read(reader, 20))
    temporary = begun.with_suffix(".part")
    temporary.write_text(f"{os.getpid()} {child} {grandchild}")
    temporary.rename(begun)
    time.sleep(3600)
