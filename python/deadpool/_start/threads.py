"""Starting zygotes, which fork the workers, through a multiprocessing context."""

from __future__ import annotations

import contextlib
import logging
import os
import select
import signal
import threading
import time
from collections.abc import Callable, Iterator
from multiprocessing import resource_tracker
from multiprocessing.process import BaseProcess

from .. import _environ, _exit
from .._child import fork as child_fork
from .._child import worker as child_worker
from . import fork_server_popen, standard_streams
from .method import StartMethod

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from .._core import Completer, Launcher

_logger = logging.getLogger("deadpool.launcher")

# How long a zygote that was dismissed may take to end.
_EXIT_SECONDS = 10.0

# More descriptors than are taken by any start of a process.
_START_DESCRIPTORS = 24

# How often it is looked whether a zygote has ended, where it can't tell.
_LOOK_SECONDS = 0.01


class _FirstStarts:
    """Tells when the workers that a pool begins with have been started."""

    def __init__(self, workers: int) -> None:
        self._missing = workers
        self._over = threading.Event()

    def count(self) -> None:
        """Count a worker that was started."""
        self._missing -= 1
        if self._missing <= 0:
            self._over.set()

    def give_up(self) -> None:
        """End the waiting: a worker could not be started, and the pool will try again in time."""
        self._over.set()

    def wait(self) -> None:
        """Wait for the last of them. Blocks."""
        self._over.wait()


# Ends of zygotes' sockets that are on their way, with the threads that start these. A fork that kept
# one would keep the supervisor from hearing of the zygote's end.
_on_the_way: dict[int, int] = {}


def _close_what_is_on_the_way() -> None:
    # Under fork it is such a thread that forks, and what comes of it is the zygote.
    this = threading.get_ident()
    child_worker.close_all([fd for fd, thread in list(_on_the_way.items()) if thread != this])
    _on_the_way.clear()


os.register_at_fork(after_in_child=_close_what_is_on_the_way)


class Threads:
    """The completer and the launcher of one pool, until both have ended.

    An event loop may take the place of the completer's thread until the end of the pool is waited for.

    Knows nothing of the ``Deadpool`` object, so that it can be collected meanwhile.
    """

    def __init__(
        self,
        spec: child_worker.Spec,
        environ: _environ.Propagated,
        method: StartMethod,
        workers: int,
        on_worker_up: Callable[[int], object] | None = None,
        on_worker_down: Callable[[int, int | None], object] | None = None,
    ) -> None:
        self._spec = spec
        self._environ = environ
        self._on_worker_up = _logged(on_worker_up)
        self._on_worker_down = _logged(on_worker_down)
        self._method = method
        self._completer: Completer | None = None
        self._threads: list[threading.Thread] = []
        # Whose thread has not ended.
        self._going = {"completer", "launcher"}
        self._zygotes: dict[int, Any] = {}
        self._close: Callable[[], None] | None = None
        self._first_starts = _FirstStarts(workers)

    def start(self, completer: Completer, launcher: Launcher, *, with_completer: bool) -> None:
        """Start both.

        Blocks until the first workers are there, where :class:`StartMethod` wants that.

        :param completer: What settles futures.
        :param launcher: What knows which zygotes are wanted.
        :param with_completer: Whether there is to be a thread for the completer already.
        :raises RuntimeError: If no thread can be started. The pool can't work then.
        """
        self._completer = completer
        self._close = launcher.close
        _exit.add(self)
        if with_completer:
            self.start_completer()
        self._start_thread("launcher", self._launch, launcher)
        if self._method.starts_first:
            self._first_starts.wait()

    def start_completer(self) -> None:
        """Have a thread settle the futures from now on, if there is none yet.

        :raises RuntimeError: If no thread can be started.
        """
        completer, self._completer = self._completer, None
        if completer is not None:
            try:
                self._start_thread("completer", self._complete, completer)
            except BaseException:
                self._completer = completer
                raise

    def _start_thread(self, name: str, target: Callable[[Any], None], job: Any) -> None:
        thread = threading.Thread(target=target, args=(job,), name=f"deadpool-{name}", daemon=True)
        thread.start()
        self._threads.append(thread)

    def complete_ready(self) -> None:
        """Settle what has ended, in the thread of an event loop. Does not block."""
        completer = self._completer
        if completer is None:
            return
        try:
            completer.run_ready(self._on_worker_up, self._on_worker_down)
        finally:
            # The bell is not rung again, whatever a callback has raised.
            if completer.has_ended():
                self._ended("completer")

    def join(self) -> None:
        """Wait until the pool has ended. Blocks."""
        for thread in self._threads:
            thread.join()

    def is_current(self) -> bool:
        """Whether the calling thread is one of these, or may do the work of one, and so can't wait for them."""
        # An event loop need not go on, in whatever thread it is.
        return self._completer is not None or threading.current_thread() in self._threads

    def has_ended(self) -> bool:
        """Whether all futures have ended, and both threads."""
        return not self._going

    def finish(self) -> None:
        """Let what was submitted finish, and wait for the end. Blocks."""
        self.start_completer()
        if self._close is not None:
            self._close()
        self.join()

    def _complete(self, completer: Completer) -> None:
        try:
            completer.run(self._on_worker_up, self._on_worker_down)
        finally:
            self._ended("completer")

    def _ended(self, name: str) -> None:
        self._going.discard(name)
        if not self._going:
            _exit.discard(self)

    def _launch(self, launcher: Launcher) -> None:
        try:
            self._serve(launcher)
        finally:
            self._ended("launcher")

    def _serve(self, launcher: Launcher) -> None:
        while (job := launcher.next()) is not None:
            number, control = job
            if control is None:
                if number == 0:
                    self._look_at_environ(launcher)
                else:
                    self._try_to_reap(number)
                continue
            try:
                _on_the_way[control] = threading.get_ident()
                pid = self._start_zygote(number, control, launcher)
            except BaseException as error:
                # Whatever it is, the pool must hear of it, or it would wait for ever.
                if not isinstance(error, fork_server_popen.NotWantedError):
                    _logger.warning("a zygote could not be started", exc_info=True)
                launcher.failed(number, f"{type(error).__name__}: {error}")
                self._first_starts.give_up()
            else:
                launcher.launched(number, pid)
                self._first_starts.count()
            finally:
                _on_the_way.pop(control, None)
                os.close(control)
        self._first_starts.give_up()
        for number in list(self._zygotes):
            self._try_to_reap(number)

    def _look_at_environ(self, launcher: Launcher) -> None:
        try:
            self._environ.look()
        except Exception:
            # A worker waits for this.
            _logger.warning("workers get the environment as it was", exc_info=True)
        launcher.environ_looked_at()

    def _start_zygote(self, number: int, control: int, launcher: Launcher) -> int:
        if _is_hung_up(control):
            raise fork_server_popen.NotWantedError("it is not wanted any more")
        standard_streams.occupy()
        _check_descriptors(control)
        inherited: tuple[int, ...] = ()
        if self._method.name == "fork":
            inherited = tuple(fd for fd in launcher.descriptors() if fd != control)
        process: BaseProcess = self._method.context.Process(  # type: ignore[attr-defined]
            target=child_worker.run_zygote,
            args=(child_worker.Descriptor(control), self._spec, inherited),
            name=f"deadpool-zygote-{number}",
            daemon=False,
        )
        # Not by start(): then multiprocessing would list it among the children of the user, and
        # wait for it at exit. It ends when the supervisor or this process does.
        popen: Any
        if self._method.has_fork_server:
            popen = fork_server_popen.Popen(process, control)
        else:
            with _without_interrupts(self._method):
                make: Any = process._Popen  # type: ignore[attr-defined]
                popen = (child_fork.Popen if self._method.name == "fork" else make)(process)
        self._zygotes[number] = popen
        pid: int = popen.pid
        return pid

    def _ends(self, popen: Any) -> bool:
        """Wait for the end of a zygote that was dismissed; return whether it came."""
        if self._method.has_fork_server:
            return bool(popen.wait(_EXIT_SECONDS))
        # Not by its sentinel, a pipe that children which were forked meanwhile hold open as well.
        return _is_gone(popen.pid, _EXIT_SECONDS)

    def _try_to_reap(self, number: int) -> None:
        try:
            self._reap(number)
        except Exception:
            # Without this thread no worker could ever be started again.
            _logger.warning("a zygote could not be waited for", exc_info=True)

    def _reap(self, number: int) -> None:
        popen = self._zygotes.pop(number, None)
        if popen is None:
            return
        if not self._ends(popen):
            _logger.warning("zygote %d did not end and is killed", popen.pid)
            popen.kill()
        popen.wait()
        popen.close()


def _check_descriptors(fd: int) -> None:
    """See that there is room for what a start needs: multiprocessing leaks pipes where there is not.

    :param fd: Any descriptor.
    :raises OSError: If there is no room.
    """
    taken: list[int] = []
    try:
        for _ in range(_START_DESCRIPTORS):
            taken.append(os.dup(fd))  # noqa: PERF401  # Those before one that fails must be closed.
    finally:
        for copy in taken:
            os.close(copy)


def _is_hung_up(control: int) -> bool:
    """Whether the supervisor has closed its end of a zygote's socket."""
    poll = select.poll()
    poll.register(control, 0)
    return bool(poll.poll(0))


@contextlib.contextmanager
def _without_interrupts(method: StartMethod) -> Iterator[None]:
    """Start a process that Ctrl-C can't reach before it ignores that, as zygotes do."""
    if method.name == "forkserver":
        # The fork server of multiprocessing would hand this down to processes that are not ours.
        yield
        return
    # It unblocks the signal when it is started, so that must not happen in between.
    resource_tracker.ensure_running()
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _is_gone(pid: int, timeout: float) -> bool:
    """Wait for the end of a child; return whether it came."""
    try:
        process = os.pidfd_open(pid)
    except ProcessLookupError:
        return True  # Somebody has waited for all children there are.
    except OSError:
        return _is_seen_to_go(pid, timeout)  # There are no descriptors left.
    try:
        poll = select.poll()
        poll.register(process, select.POLLIN)
        return bool(poll.poll(timeout * 1000))
    finally:
        os.close(process)


def _is_seen_to_go(pid: int, timeout: float) -> bool:
    """Look for the end of a child now and then; return whether it came."""
    deadline = time.monotonic() + timeout
    options = os.WEXITED | os.WNOHANG | os.WNOWAIT
    try:
        while os.waitid(os.P_PID, pid, options) is None:
            if time.monotonic() > deadline:
                return False
            time.sleep(_LOOK_SECONDS)
    except ChildProcessError:
        pass
    return True


def _logged(callback: Callable[..., object] | None) -> Callable[..., None] | None:
    """Wrap a callback so that what it raises is logged: nobody is there to catch it."""
    if callback is None:
        return None

    def call(*args: Any) -> None:
        try:
            callback(*args)
        except Exception:
            _logger.exception("the callback %r failed", callback)

    return call
