"""Starting processes through the fork server.

What is imported in functions here is imported while the server starts, and delays nothing then.
"""

from __future__ import annotations

import contextlib
import io
import os
import pickle
import select
import signal
import socket
from multiprocessing import context

from .._child import packets
from .fork_server import preloaded, server

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any


# How often a server that is waited for is told to go on.
_NUDGE_SECONDS = 1.0

# More do not fit into one message, beside the request's own.
_MOST_DESCRIPTORS = 240


class NotWantedError(Exception):
    """Nobody wants the process any more, so it was not waited for."""


class Popen:
    """A process that was forked by the fork server; what starts processes calls such a thing a popen.

    :param process: What to run.
    :param wanted_fd: A socket that is hung up when nobody wants the process any more. Until then
        this blocks while the server imports the main module.
    :raises OSError: If the process can't be started.
    :raises NotWantedError: If it is not wanted any more.
    """

    method = "forkserver"

    def __init__(self, process: Any, wanted_fd: int) -> None:
        server.start()
        from multiprocessing import reduction, spawn

        from .._child.fork_server import InheritedDescriptor

        self.DupFd = InheritedDescriptor
        self._fds: list[int] = []
        preparation = spawn.get_preparation_data(process._name)
        pickled = io.BytesIO()
        # Here, since a message may not be long enough for it.
        pickle.dump(preloaded(), pickled)
        start = pickled.tell()
        # From now on reductions may pass descriptors, through `duplicate_for_child`.
        context.set_spawning_popen(self)  # type: ignore[arg-type]
        try:
            reduction.dump(preparation, pickled)
            reduction.dump(process, pickled)
        finally:
            context.set_spawning_popen(None)
        if len(self._fds) > _MOST_DESCRIPTORS:
            raise ValueError(
                f"workers can be given {_MOST_DESCRIPTORS} descriptors at most, not {len(self._fds)}"
            )
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        with ours, theirs:
            with open(os.memfd_create("deadpool-task"), "wb") as file:  # noqa: PTH123
                file.write(pickled.getbuffer())
                file.flush()
                server.ask(file.fileno(), start, theirs, self._fds)
            theirs.close()
            self.pid, self._pidfd = _await_answer(ours, wanted_fd)

    def duplicate_for_child(self, fd: int) -> int:
        """Have a descriptor passed on; called while the process is pickled."""
        self._fds.append(fd)
        return len(self._fds) - 1

    def wait(self, timeout: float | None = None) -> bool:
        """Wait for its end; return whether it came. Blocks for at most ``timeout`` seconds."""
        poll = select.poll()
        poll.register(self._pidfd, select.POLLIN)
        return bool(poll.poll(None if timeout is None else timeout * 1000))

    def kill(self) -> None:
        """Kill it, if it is there."""
        with contextlib.suppress(ProcessLookupError):
            signal.pidfd_send_signal(self._pidfd, signal.SIGKILL)

    def close(self) -> None:
        """Give up what is kept of it, after its end."""
        with contextlib.suppress(ChildProcessError):
            # If its server died it may have become a child of this process.
            os.waitid(os.P_PIDFD, self._pidfd, os.WEXITED | os.WNOHANG)
        os.close(self._pidfd)


def _await_answer(answers: socket.socket, wanted_fd: int) -> tuple[int, int]:
    """Return the id of the process and a pidfd of it. Blocks."""
    poll = select.poll()
    poll.register(answers, select.POLLIN)
    poll.register(wanted_fd, 0)
    while not (found := poll.poll(_NUDGE_SECONDS * 1000)):
        # It may have been stopped after it was asked.
        server.resume()
    ready = {fd for fd, _ in found}
    if answers.fileno() not in ready:
        server.give_up()
        raise NotWantedError("it is not wanted any more")
    server.note_answer()
    answer, fds = packets.receive(answers)
    if not answer:
        raise OSError("the fork server is gone")
    pid = pickle.loads(answer)
    if isinstance(pid, str):
        server.note_refusal()
        raise OSError(f"the fork server says: {pid}")
    server.note_fork()
    (pidfd,) = fds
    return pid, pidfd
