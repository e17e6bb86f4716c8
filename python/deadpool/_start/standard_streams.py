"""Descriptors 0 to 2 of a program that has closed them, while processes are started.

The next file that such a program opens gets the number of a standard stream. A socket of ours under
such a number would be taken for standard error by the child that it is passed to.
"""

from __future__ import annotations

import contextlib
import os
import threading

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator

# Reentrant, since a finalizer may start a process while another is being started.
_lock = threading.RLock()
_users = 0
_opened: list[int] = []


@contextlib.contextmanager
def occupied() -> Iterator[None]:
    """Have ``/dev/null`` under the numbers of standard streams that are closed, also in children."""
    global _users
    with _lock:
        if _users == 0:
            _open()
        _users += 1
    try:
        yield
    finally:
        with _lock:
            _users -= 1
            if _users == 0:
                while _opened:
                    os.close(_opened.pop())


def _open() -> None:
    for fd in range(3):
        try:
            os.fstat(fd)
        except OSError:
            # The lowest number that is free.
            number = os.open(os.devnull, os.O_RDWR)
            if number > 2:
                # Another thread was faster.
                os.close(number)
            else:
                _opened.append(number)
                os.set_inheritable(number, True)


def _forget() -> None:
    # A fork keeps what was opened, as its standard streams; the lock may be held by a thread that it
    # has not.
    global _lock, _users
    _lock = threading.RLock()
    _users = 0
    _opened.clear()


os.register_at_fork(after_in_child=_forget)
