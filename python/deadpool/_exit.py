"""What happens to pools that are still there when the interpreter exits.

As in the standard library, submitted work is finished first. The hook runs before non-daemon threads
are joined and before :mod:`atexit` handlers, so that both can still rely on results.
"""

from __future__ import annotations

import os
import threading

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Protocol

    class Running(Protocol):
        """What is kept of a pool until its threads have ended."""

        def finish(self) -> None:
            """Let what was submitted finish, and wait for the end of the pool."""


interpreter_is_exiting = False


_running: set[Running] = set()


def add(running: Running) -> None:
    """Have a pool finished at exit."""
    _running.add(running)


def discard(running: Running) -> None:
    """Forget a pool that has ended."""
    _running.discard(running)


def _finish_all() -> None:
    global interpreter_is_exiting
    interpreter_is_exiting = True
    for running in list(_running):
        running.finish()


def _forget_all() -> None:
    # A fork has none of the threads that would end them.
    _running.clear()


try:
    # The standard library's own executors use it, for want of a public hook that runs this early.
    threading._register_atexit(_finish_all)  # type: ignore[attr-defined]
except RuntimeError:
    # The first pool is made by an exit handler, which must end it itself.
    interpreter_is_exiting = True
os.register_at_fork(after_in_child=_forget_all)
