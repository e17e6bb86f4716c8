"""What the fork server runs: a small process that zygotes are forked from.

As the fork server of :mod:`multiprocessing` it has imported the main module and what was asked for,
and lives as long as the process that it forks for. Unlike that one it listens on no path, imports
nothing that only a server of others' processes needs, and so is there in half of the time.

The two talk over a pair of sockets. Each request brings what to run, in a file in memory that
:mod:`multiprocessing.spawn` reads, and a socket for the answer.
"""

from __future__ import annotations

import contextlib
import gc
import importlib
import os
import pickle
import select
import signal
import socket
import sys
from multiprocessing import process, resource_tracker, spawn

# Here, so that no zygote and no worker has to: what all of them need.
from .. import _core, _failures  # noqa: F401
from . import packets
from . import worker as child_worker

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence
    from typing import Any

_inherited: list[int] = []


class InheritedDescriptor:
    """A file descriptor that comes along with a request.

    :param index: Its place among them.
    """

    def __init__(self, index: int) -> None:
        self._index = index

    def detach(self) -> int:
        """Return its number in this process, whose owner is the caller from now on."""
        return _inherited[self._index]


def main(control_fd: int, parent_pid: int, usual_threshold: tuple[int, ...] | None = None) -> None:
    """Fork whenever that is asked for, until the parent is gone. Blocks.

    :param control_fd: The socket that requests come through.
    :param parent_pid: The process that they come from.
    :param usual_threshold: That of the garbage collector, if it was raised for the start.
    """
    _ignore_signals()
    signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGINT})
    server: _Server | None = None
    try:
        # It may have ended before this process was there.
        with contextlib.suppress(ProcessLookupError):
            parent = os.pidfd_open(parent_pid)
        if os.getppid() == parent_pid:
            usual_threshold = usual_threshold or gc.get_threshold()
            server = _Server(socket.socket(fileno=control_fd), parent, usual_threshold)
            server.serve()
    except BaseException:
        sys.excepthook(*sys.exc_info())
    finally:
        # What the main module has started goes too: threads and processes, and exit handlers, which
        # run in the parent. Zygotes end by themselves, after all that is below them.
        _core.kill_children([] if server is None else server.zygotes)
        child_worker.flush_streams()
        os._exit(0)


def _ignore_signals() -> None:
    # Ctrl-C goes to all processes of a terminal, and is the parent's business.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    # The kernel reaps: who started a zygote hears of its end through a pidfd.
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)


class _Server:
    """Answers requests.

    :param control: The socket that they come through.
    :param parent: A pidfd of the process that they come from.
    :param usual_threshold: That of the garbage collector where nobody sets another.
    """

    def __init__(
        self, control: socket.socket, parent: int, usual_threshold: tuple[int, ...]
    ) -> None:
        self._control = control
        self._parent = parent
        self._usual_threshold = usual_threshold
        self._is_prepared = False
        self.zygotes: list[int] = []
        control.set_inheritable(False)

    def serve(self) -> None:
        """Answer requests until there will be no more. Blocks."""
        poll = select.poll()
        poll.register(self._control, select.POLLIN)
        poll.register(self._parent, select.POLLIN)
        while all(fd != self._parent for fd, _ in poll.poll()):
            request, fds = packets.receive(self._control)
            if not request:
                return
            task, answer, *rest = fds
            if not self._is_prepared:
                # The main module may take its time.
                watch = _core.ParentWatch(self._parent)
                _prepare(task, self._usual_threshold)
                watch.stop()
                self._is_prepared = True
            with socket.socket(fileno=answer) as answers:
                self._fork(task, pickle.loads(request), answers, rest)
            for fd in (task, *rest):
                os.close(fd)

    def _fork(self, task: int, start: int, answers: socket.socket, rest: list[int]) -> None:
        try:
            pid = os.fork()
        except OSError as error:
            _answer(answers, f"could not fork: {type(error).__name__}: {error}", [])
            return
        if pid == 0:
            code = 1
            try:
                self._control.close()
                answers.close()
                code = _run(task, start, rest, self._parent)
            except BaseException:
                sys.excepthook(*sys.exc_info())
            finally:
                child_worker.flush_streams()
                os._exit(code)
        # Those that are gone are reaped, and their numbers may come again.
        self.zygotes = [other for other in self.zygotes if _is_child(other)]
        self.zygotes.append(pid)
        try:
            pidfd = os.pidfd_open(pid)
        except ProcessLookupError:
            _answer(answers, "the process ended at once; it has said why, if it could", [])
            return
        except OSError as error:
            # There are no descriptors left: nobody could wait for it.
            with contextlib.suppress(ProcessLookupError, ChildProcessError):
                os.kill(pid, signal.SIGKILL)
                # This process may be the next to be killed, and would leave a zombie to its parent.
                os.waitpid(pid, 0)
            _answer(answers, f"could not fork: {type(error).__name__}: {error}", [])
            return
        _answer(answers, pid, [pidfd])
        os.close(pidfd)


def _prepare(task: int, usual_threshold: tuple[int, ...]) -> None:
    """Import what processes to come are going to need, as far as that works here."""
    starting_threshold = gc.get_threshold()
    current: Any = process.current_process()
    # So that a main module which starts processes when it is imported is told what is wrong.
    current._inheriting = True
    try:
        os.lseek(task, 0, os.SEEK_SET)
        with open(task, "rb", closefd=False) as file:  # It has no path.
            preloaded: Sequence[str] = pickle.load(file)
            for name in preloaded:
                if name != "__main__":
                    with contextlib.suppress(ImportError):
                        importlib.import_module(name)
            preparation = pickle.load(file)
        if "__main__" not in preloaded:
            preparation = {
                key: value
                for key, value in preparation.items()
                if not key.startswith("init_main_from")
            }
        spawn.prepare(preparation)
    except BaseException:  # noqa: S110
        # It is tried again in the process that is to be started, which says what is wrong.
        pass
    finally:
        del current._inheriting
        # The main module may have had other ideas.
        _ignore_signals()
    # Or each process would print it once more.
    child_worker.flush_streams()
    if gc.get_threshold() == starting_threshold:
        # The main module wants no other.
        gc.set_threshold(*usual_threshold)
    # What is there now stays for ever, in pages that all processes share.
    gc.freeze()


def _is_child(pid: int) -> bool:
    try:
        return os.waitid(os.P_PID, pid, os.WEXITED | os.WNOHANG | os.WNOWAIT) is None
    except ChildProcessError:
        return False


def _answer(answers: socket.socket, answer: int | str, fds: list[int]) -> None:
    with contextlib.suppress(OSError):
        packets.send(answers, pickle.dumps(answer), fds)


def _run(task: int, start: int, rest: list[int], parent: int) -> int:
    """Run what was asked for, in the new process; return its exit code."""
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    tracker: Any = resource_tracker._resource_tracker
    tracker._fd, *_inherited[:] = rest
    os.lseek(task, start, os.SEEK_SET)
    code: int = spawn._main(task, parent)
    return code
