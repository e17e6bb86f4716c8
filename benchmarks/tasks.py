"""What the workers run. A module of its own, so that workers import nothing else of the benchmark."""

from __future__ import annotations

import os
import re
import time
from pathlib import Path
from typing import Any


def nothing(_: object = None) -> None:
    """Do nothing."""


def echo(value: Any) -> Any:
    """Return the argument."""
    return value


def nap(seconds: float) -> int:
    """Sleep, and tell which process did."""
    time.sleep(seconds)
    return os.getpid()


def wait_for(path: str) -> None:
    """Keep a worker busy until a file is there."""
    while not Path(path).exists():
        time.sleep(0.01)


def hold_the_gil(letters: int) -> None:
    """Match a pattern that takes time exponential in the letters, in C code that keeps the GIL."""
    re.match(r"(a+)+$", "a" * letters + "b")


def linger(path: str) -> None:
    """Write down which process runs this, and go on until it is killed."""
    unfinished = Path(path + ".unfinished")
    unfinished.write_text(str(os.getpid()))
    unfinished.rename(path)
    time.sleep(60)
