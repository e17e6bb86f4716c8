"""Forking a process object."""

from __future__ import annotations

import os
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
                os._exit(code)
        os.close(child_holds)
        os.close(from_parent)
        held = (from_child, parent_holds)
        self.finalizer = util.Finalize(self, util.close_fds, held)  # type: ignore[attr-defined]
        self.sentinel = from_child
