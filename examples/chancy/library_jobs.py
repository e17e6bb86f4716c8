"""Jobs: one that reads a module of the standard library, and some that misbehave.

Annotations are not put off here (``from __future__ import annotations``), since Chancy looks for
``QueuedJob`` among them.
"""

import ast
import ctypes
import re
import subprocess
import time
from pathlib import Path

from chancy import QueuedJob


def examine(path: str, *, context: QueuedJob) -> None:
    """Count what is in a module, and leave it in the job's meta."""
    text = Path(path).read_text(encoding="utf-8", errors="replace")
    nodes = list(ast.walk(ast.parse(text)))
    context.meta["lines"] = text.count("\n")
    context.meta["functions"] = sum(isinstance(node, ast.FunctionDef) for node in nodes)
    context.meta["classes"] = sum(isinstance(node, ast.ClassDef) for node in nodes)


def crash() -> None:
    """Follow a null pointer."""
    ctypes.string_at(0)


def hang_in_c() -> None:
    """Hold the interpreter's lock for ages, so that no signal handler runs."""
    re.match(r"(a+)+$", "a" * 60 + "b")


def leak() -> None:
    """Take more and more memory."""
    kept = []
    while True:
        kept.append(bytearray(b"x") * 10_000_000)
        time.sleep(0.01)


def wait_for_a_child() -> None:
    """Start a process and wait for it, for an hour."""
    subprocess.run(["sleep", "3600"], check=True)
