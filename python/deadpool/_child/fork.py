"""Forking a process, and what a fork must not keep."""

from __future__ import annotations

import atexit
import contextlib
import os
import sys
import threading
from multiprocessing import popen_fork, util

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any


class Popen(popen_fork.Popen):
    """As the standard library's, but leaves no pipes behind where a fork fails.

    A pool tries again and again where processes or descriptors are short, and must not make that
    worse.
    """

    def _launch(self, process_obj: Any) -> None:
        pipes: list[int] = []
        try:
            pipes += os.pipe()
            pipes += os.pipe()
            pid = os.fork()
        except BaseException:
            for fd in pipes:
                os.close(fd)
            raise
        from_child, child_holds, from_parent, parent_holds = pipes
        self.pid = pid
        if pid == 0:
            code = 1
            try:
                os.close(from_child)
                os.close(parent_holds)
                code = process_obj._bootstrap(parent_sentinel=from_parent)
            finally:
                atexit._run_exitfuncs()
                flush_streams()
                os._exit(code)
        os.close(child_holds)
        os.close(from_parent)
        held = (from_child, parent_holds)
        self.finalizer = util.Finalize(self, util.close_fds, held)  # type: ignore[attr-defined]
        self.sentinel = from_child


def flush_streams() -> None:
    """Write out what was printed."""
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(Exception):
            stream.flush()


def _forget_fork_server() -> None:
    # To a fork it is a sibling: it can't be waited for, and multiprocessing fails when it tries. And
    # whoever writes to the descriptor that says that this process lives ends it.
    module = sys.modules.get("multiprocessing.forkserver")
    if module is None:
        return
    server: Any = module._forkserver
    alive_fd = server._forkserver_alive_fd
    server._lock = threading.Lock()
    server._forkserver_pid = server._forkserver_address = server._forkserver_alive_fd = None
    if alive_fd is not None:
        os.close(alive_fd)


os.register_at_fork(after_in_child=_forget_fork_server)
