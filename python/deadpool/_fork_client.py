"""Starting processes through the fork server, which is started when it is needed first.

There is one for the whole process, and it stays until that ends: a later pool has it at once.

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
import sys
import threading
import time
from multiprocessing import context, util
from multiprocessing import process as mp_process

from . import _packets

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any


# More do not fit into one message, beside the request's own.
_MOST_DESCRIPTORS = 240

# After so many refusals in a row a server is replaced: what it lacks, another may have.
_MOST_REFUSALS = 3

# A server that has been silent for so long with something to answer will never answer.
_SILENT_SECONDS = 30.0


class NotWantedError(Exception):
    """Nobody wants the process any more, so it was not waited for."""


class _ForkServer:
    """The fork server of this process."""

    def __init__(self) -> None:
        self.pid: int | None = None
        self._pidfd: int | None = None
        self._lock = threading.Lock()
        self._control: socket.socket | None = None
        # Requests without an answer, and since when there is one.
        self._unanswered = 0
        self._silent_since = 0.0
        # Requests that it could not carry out, since the last that it could.
        self._refusals = 0

    def start(self) -> None:
        """Start it, if it does not run, and do not wait for that.

        :raises OSError: If it can't be started.
        """
        with self._lock:
            if self._control is None:
                self._start()

    def ask(self, task: int, start: int, answer: socket.socket, fds: list[int]) -> None:
        """Ask for a process. Does not wait for it.

        :param task: A file that holds what the server is to import, and what the process is to run.
        :param start: Where in the file the second begins.
        :param answer: Where to tell of it.
        :param fds: The descriptors that it is to have.
        :raises OSError: If the server can't be started or reached.
        """
        with self._lock:
            for _ in range(2):
                if self._control is None:
                    self._start()
                assert self._control is not None
                from multiprocessing import resource_tracker

                tracker = resource_tracker.getfd()
                assert tracker is not None
                passed = [task, answer.fileno(), tracker, *fds]
                # Somebody may have stopped it, and then all pools would wait for it.
                self._signal(signal.SIGCONT)
                try:
                    _packets.send(self._control, pickle.dumps(start), passed)
                except (BrokenPipeError, ConnectionResetError):
                    # Somebody has killed it.
                    self._forget()
                else:
                    if self._unanswered == 0:
                        self._silent_since = time.monotonic()
                    self._unanswered += 1
                    return
        raise OSError("the fork server is gone as soon as it is started")

    def _start(self) -> None:
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        with theirs:
            code = (
                f"import sys; sys.path[:] = {_path()!r}; from deadpool._fork_server import main; "
                f"main({theirs.fileno()}, {os.getpid()})"
            )
            flags = util._args_from_interpreter_flags()  # type: ignore[attr-defined]
            executable = _executable()
            command = [executable, *flags, "-c", code]
            # Ctrl-C must not reach it before it ignores that.
            before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
            try:
                self.pid = util.spawnv_passfds(executable, command, [theirs.fileno()])
                self._pidfd = os.pidfd_open(self.pid)
            except BaseException:
                # Without its other end the server does not stay.
                ours.close()
                raise
            finally:
                signal.pthread_sigmask(signal.SIG_SETMASK, before)
        self._control = ours

    def _signal(self, number: int) -> None:
        if self._pidfd is not None:
            with contextlib.suppress(ProcessLookupError):
                signal.pidfd_send_signal(self._pidfd, number)

    def _forget(self) -> None:
        if self._control is not None:
            self._control.close()
        if self._pidfd is not None:
            self._signal(signal.SIGKILL)
            with contextlib.suppress(ChildProcessError):
                os.waitid(os.P_PIDFD, self._pidfd, os.WEXITED)
            os.close(self._pidfd)
        self._control = self._pidfd = self.pid = None
        self._unanswered = self._refusals = 0

    def has_answered(self) -> None:
        """Hear that a request was answered."""
        with self._lock:
            self._unanswered = max(self._unanswered - 1, 0)
            self._silent_since = time.monotonic()

    def has_forked(self) -> None:
        """Hear that a request was carried out."""
        with self._lock:
            self._refusals = 0

    def has_refused(self) -> None:
        """Hear that a request could not be carried out.

        A server keeps the limits that it was started with, which this process may have left since.
        """
        with self._lock:
            self._refusals += 1
            if self._refusals >= _MOST_REFUSALS:
                self._forget()

    def is_given_up(self) -> None:
        """Hear that nobody waits for the answer to a request any more.

        A server that never answers, as a main module may take for ever to import, is replaced.
        """
        with self._lock:
            self._unanswered = max(self._unanswered - 1, 0)
            if time.monotonic() - self._silent_since > _SILENT_SECONDS:
                self._forget()

    def leave_to_parent(self) -> None:
        """Forget the server in a fork of this process: it is the parent's."""
        self._lock = threading.Lock()
        if self._control is not None:
            self._control.close()
        if self._pidfd is not None:
            os.close(self._pidfd)
        self._control = self._pidfd = self.pid = None
        self._unanswered = self._refusals = 0


server = _ForkServer()
os.register_at_fork(after_in_child=server.leave_to_parent)


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

        from ._fork_server import InheritedDescriptor

        self.DupFd = InheritedDescriptor
        self._fds: list[int] = []
        preparation = spawn.get_preparation_data(process._name)
        pickled = io.BytesIO()
        # Here, since a message may not be long enough for it.
        pickle.dump(_preloaded(), pickled)
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
    ready = {fd for fd, _ in poll.poll()}
    if answers.fileno() not in ready:
        server.is_given_up()
        raise NotWantedError("it is not wanted any more")
    server.has_answered()
    answer, fds = _packets.receive(answers)
    if not answer:
        raise OSError("the fork server is gone")
    pid = pickle.loads(answer)
    if isinstance(pid, str):
        server.has_refused()
        raise OSError(f"the fork server says: {pid}")
    server.has_forked()
    (pidfd,) = fds
    return pid, pidfd


def _path() -> list[str]:
    """Return where modules are found, for a process that may be somewhere else."""
    start: str | None = mp_process.ORIGINAL_DIR  # type: ignore[attr-defined]
    path = [name or start for name in sys.path]
    return [name for name in path if isinstance(name, str)]


def _executable() -> bytes:
    """Return the interpreter to run; see ``multiprocessing.set_executable``."""
    module = sys.modules.get("multiprocessing.spawn")
    executable: str | bytes = sys.executable if module is None else module.get_executable()
    return os.fsencode(executable)


def _preloaded() -> list[str]:
    """Return the modules that the fork server is to import; see ``set_forkserver_preload``."""
    module = sys.modules.get("multiprocessing.forkserver")
    if module is None:
        return ["__main__"]
    return list(module._forkserver._preload_modules)
