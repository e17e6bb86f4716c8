"""Descriptors 0 to 2 of a program that has closed them.

The next file that such a program opens gets the number of a standard stream. A socket of a pool under
such a number would be taken for standard error by the child that it is passed to, which would write
its log into it, or into whatever file a task opens next.
"""

from __future__ import annotations

import os


def occupy() -> None:
    """Put ``/dev/null`` where a standard stream was closed, for good and also for children.

    Not only while a process is started: what another thread opens meanwhile may take such a number for
    a moment, and leave it free for what follows. Does not block.
    """
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
                os.set_inheritable(number, True)
