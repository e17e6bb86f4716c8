"""The fork server of this process: started when a pool is made first, asked for processes, replaced.

There is one for the whole process, and it stays until that ends: a later pool has it at once.

This is imported before anything else that a pool needs, so that the server starts while the rest is
imported here. So it imports little itself, and :mod:`multiprocessing` only where that is there already.
"""

from __future__ import annotations

import contextlib
import errno
import marshal
import os
import pickle
import signal
import socket
import subprocess
import sys
import threading
import time

from .._child import packets

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

# After so many refusals in a row a server is replaced: what it lacks, another may have.
_MOST_REFUSALS = 3

# A server that has been silent for so long with something to answer will never answer.
_SILENT_SECONDS = 30.0

# Of so many new objects garbage is looked for in a server that starts: it makes some 10,000, of which
# nearly all stay. A number that nobody else chooses.
_STARTING_THRESHOLD = 50_003


def is_possible() -> bool:
    """Whether there can be such a server.

    A program that was frozen into one file is no interpreter that could run it. Such a program knows
    how to start the fork server of :mod:`multiprocessing`.
    """
    return not getattr(sys, "frozen", False)


class _ForkServer:
    """The fork server of this process."""

    def __init__(self) -> None:
        self.pid: int | None = None
        self._pidfd: int | None = None
        # Reentrant, since a finalizer may make a pool while the server is started.
        self._lock = threading.RLock()
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

    def start_early(self) -> None:
        """Start it if it can be started, and does not run. Does not wait for that, and raises nothing.

        Another thread starts it: a signal handler that makes a pool, or waits for one, may interrupt
        the calling thread, which must not hold the lock then. It is tried again when it is needed,
        where the error is told.
        """
        if self._control is None and is_possible():
            with contextlib.suppress(RuntimeError):
                threading.Thread(
                    target=self._try_to_start, name="deadpool-server", daemon=True
                ).start()

    def _try_to_start(self) -> None:
        with contextlib.suppress(Exception):
            self.start()

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
                    packets.send(self._control, pickle.dumps(start), passed)
                except (BrokenPipeError, ConnectionResetError):
                    # Somebody has killed it.
                    self._forget()
                except OSError as error:
                    if error.errno not in (errno.EBADF, errno.ENOTSOCK):
                        raise
                    # The program has closed what was not its own, and may have something else there.
                    self._control.detach()
                    self._control = self._pidfd = None
                    self._forget()
                else:
                    if self._unanswered == 0:
                        self._silent_since = time.monotonic()
                    self._unanswered += 1
                    return
        raise OSError("the fork server is gone as soon as it is started")

    def _start(self) -> None:
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        # The command line has a bound, and the path has none.
        with theirs, open(os.memfd_create("deadpool-path"), "w+b") as path:  # noqa: PTH123
            path.write(marshal.dumps(_path()))
            path.seek(0)
            code = (
                f"import gc; usual = gc.get_threshold(); gc.set_threshold({_STARTING_THRESHOLD}); "
                f"import marshal, sys; sys.path[:] = marshal.load(open({path.fileno()}, 'rb')); "
                "from deadpool._child.fork_server import main; "
                f"main({theirs.fileno()}, {os.getpid()}, usual)"
            )
            flags = subprocess._args_from_interpreter_flags()  # type: ignore[attr-defined]
            command = [_executable(), *flags, "-c", code]
            # Ctrl-C must not reach it before it ignores that.
            before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
            try:
                child = subprocess.Popen(  # noqa: S603  # It is the interpreter that runs this.
                    command, pass_fds=[theirs.fileno(), path.fileno()], restore_signals=False
                )
                try:
                    self._pidfd = os.pidfd_open(child.pid)
                except BaseException:
                    child.kill()
                    child.wait()
                    raise
                self.pid = child.pid
                # `_forget` waits for it by its pidfd; so that `Popen` does not, nor warns of it.
                child.returncode = 0
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

    def resume(self) -> None:
        """Let it go on, if somebody has stopped it."""
        with self._lock:
            self._signal(signal.SIGCONT)

    def note_answer(self) -> None:
        """Hear that a request was answered."""
        with self._lock:
            self._unanswered = max(self._unanswered - 1, 0)
            self._silent_since = time.monotonic()

    def note_fork(self) -> None:
        """Hear that a request was carried out."""
        with self._lock:
            self._refusals = 0

    def note_refusal(self) -> None:
        """Hear that a request could not be carried out.

        A server keeps the limits that it was started with, which this process may have left since.
        """
        with self._lock:
            self._refusals += 1
            if self._refusals >= _MOST_REFUSALS:
                self._forget()

    def give_up(self) -> None:
        """Hear that nobody waits for the answer to a request any more.

        A server that never answers, as a main module may take for ever to import, is replaced.
        """
        with self._lock:
            self._unanswered = max(self._unanswered - 1, 0)
            if time.monotonic() - self._silent_since > _SILENT_SECONDS:
                self._forget()

    def leave_to_parent(self) -> None:
        """Forget the server in a fork of this process: it is the parent's."""
        self._lock = threading.RLock()
        if self._control is not None:
            self._control.close()
        if self._pidfd is not None:
            os.close(self._pidfd)
        self._control = self._pidfd = self.pid = None
        self._unanswered = self._refusals = 0


server = _ForkServer()
os.register_at_fork(after_in_child=server.leave_to_parent)


def _path() -> list[str]:
    """Return where modules are found, for a process that may be somewhere else."""
    module: Any = sys.modules.get("multiprocessing.process")
    start: str | None = None
    if module is not None:
        start = module.ORIGINAL_DIR
    else:
        with contextlib.suppress(OSError):
            start = os.getcwd()  # noqa: PTH109  # To import `pathlib` would take longer than the rest.
    path = [name or start for name in sys.path]
    return [name for name in path if isinstance(name, str)]


def _executable() -> bytes:
    """Return the interpreter to run; see ``multiprocessing.set_executable``."""
    module = sys.modules.get("multiprocessing.spawn")
    executable: str | bytes = sys.executable if module is None else module.get_executable()
    return os.fsencode(executable)


def preloaded() -> list[str]:
    """Return the modules that the fork server is to import; see ``set_forkserver_preload``."""
    module = sys.modules.get("multiprocessing.forkserver")
    if module is None:
        return ["__main__"]
    return list(module._forkserver._preload_modules)
