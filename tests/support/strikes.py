"""Ways in which a process can be struck, and places in which that can happen."""

from __future__ import annotations

import atexit
import contextlib
import ctypes
import importlib
import os
import signal
import socket
import struct
import sys
import threading
import time
from pathlib import Path
from typing import Any


class Strike(Exception):
    """What is raised on purpose."""


def strike(how: str) -> None:
    """Strike this process."""
    if how == "SIGKILL":
        os.kill(os.getpid(), signal.SIGKILL)
    elif how == "SIGSEGV":
        ctypes.string_at(1)
    elif how == "os._exit":
        os._exit(3)
    elif how == "sys.exit":
        sys.exit(4)
    elif how == "exception":
        raise Strike
    time.sleep(3600)


WAYS = ("SIGKILL", "SIGSEGV", "os._exit", "sys.exit", "exception", "hang")


# What hangs in the parent goes on when this is set.
released = threading.Event()


def hang_in(pid: int) -> None:
    """Hang if this is that process, until it is released."""
    if os.getpid() == pid:
        assert released.wait(60)


class HangsUnpickled:
    """Hangs one process that unpickles it."""

    def __init__(self, pid: int) -> None:
        self.pid = pid

    def __reduce__(self) -> Any:
        return hang_in, (self.pid,)


class HangsPickled(HangsUnpickled):
    """Hangs one process that pickles it."""

    def __reduce__(self) -> Any:
        hang_in(self.pid)
        return int, ()


class StrikesUnpickled:
    """Strikes whoever unpickles it."""

    def __init__(self, how: str) -> None:
        self.how = how

    def __reduce__(self) -> Any:
        return strike, (self.how,)


class StrikesPickled:
    """Strikes whoever pickles it."""

    def __init__(self, how: str) -> None:
        self.how = how

    def __reduce__(self) -> Any:
        strike(self.how)
        raise AssertionError


def return_striking(how: str) -> StrikesPickled:
    return StrikesPickled(how)


def return_striking_parent(how: str) -> StrikesUnpickled:
    return StrikesUnpickled(how)


class StrikesImported:
    """Strikes who unpickles it in the import of a module.

    :param directory: Where the module is written.
    """

    def __init__(self, how: str, directory: Path) -> None:
        self._how = how
        self._directory = directory
        source = f"import strikes\nstrikes.strike({how!r})\n"
        (directory / "struck_module.py").write_text(source)

    def __reduce__(self) -> Any:
        return _import_struck, (str(self._directory),)


def _import_struck(directory: str) -> Any:
    sys.path.insert(0, directory)
    sys.modules.pop("struck_module", None)
    importlib.invalidate_caches()
    try:
        return importlib.import_module("struck_module")
    finally:
        sys.path.remove(directory)


def strike_once(how: str, marker: Path) -> None:
    """Strike the first process that comes here."""
    with contextlib.suppress(FileExistsError):
        marker.touch(exist_ok=False)
        strike(how)


def note_and_strike(how: str, marker: Path) -> None:
    """Tell that it comes to it, and strike."""
    with marker.open("a") as file:
        file.write("struck\n")
    strike(how)


def strike_amid_a_frame(how: str) -> None:
    """Strike when the first part of a large result was written to the connection."""
    connection = _connection()
    # As `src/wire/frame.rs` has it: magic number, returned, no flags, the first task, its length.
    connection.sendall(struct.pack("<HBBIQ", 0xDEAD, 20, 0, 1, 1 << 24) + b"part")
    connection.detach()
    strike(how)


def _connection() -> socket.socket:
    for entry in Path("/proc/self/fd").iterdir():
        with contextlib.suppress(OSError):
            found = socket.socket(fileno=os.dup(int(entry.name)))
            is_ours = found.type == socket.SOCK_STREAM and found.family == socket.AF_UNIX
            if is_ours and found.getsockname() == "" == found.getpeername():
                return found
            found.close()
    raise LookupError("no connection to the pool")


def strike_at_exit(how: str, marker: Path) -> None:
    atexit.register(note_and_strike, how, marker)


def claim_length(length: int, begun: Path) -> None:
    """Begin a frame that claims to be so long, and say no more until the file is gone again."""
    connection = _connection()
    connection.sendall(struct.pack("<HBBIQ", 0xDEAD, 20, 0, 1, length) + b"part")
    connection.detach()
    begun.touch()
    while begun.exists():
        time.sleep(0.001)
