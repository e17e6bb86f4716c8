"""Calling Celery's callbacks in the thread that it expects, in the order in which things happened.

With an event loop that is the loop's thread: much of Celery and kombu has no locks there. Without one
any thread will do, and the pool has one for it.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import queue
import select
import sys
import threading
from collections import deque
from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import Any, Protocol

from celery.platforms import EX_FAILURE
from celery.utils.log import get_logger
from celery.worker import state as worker_state
from celery.worker.request import Request

_logger = get_logger("deadpool.celery")

# As os.eventfd_write(), which lets go of the interpreter's lock, and so loses it to the event loop that
# it wakes: what signals would then have to ask for the lock once more, only to return.
_eventfd_write = ctypes.PyDLL(None).eventfd_write
_eventfd_write.argtypes = (ctypes.c_int, ctypes.c_uint64)


class Calls(Protocol):
    """Makes calls, one after the other."""

    propagated: tuple[type[BaseException], ...]

    def post(self, function: Callable[..., object], *args: Any) -> None:
        """Have ``function(*args)`` called. Does not block; may be called from any thread."""

    def submitted(self) -> None:
        """Have what was submitted run. Does not block."""

    def is_current(self) -> bool:
        """Whether the calls are made by the thread that asks."""

    def close(self) -> None:
        """Make no more calls."""


def call(calls: Calls, function: Callable[..., object] | None, *args: Any, **kwargs: Any) -> None:
    """Call a callback, if there is one, and log what it raises.

    :raises BaseException: What Celery wants to see raised: ``MemoryError`` and what ends a program.
    """
    if function is None:
        return
    try:
        function(*args, **kwargs)
    except calls.propagated:
        raise
    except Exception:
        _logger.exception("a callback of a task failed: %r", function)


def request_of(callback: Callable[..., object] | None) -> Any:
    """Return the request that a callback of Celery's is a method of; None if it is another's."""
    request = getattr(callback, "__self__", None)
    return request if isinstance(request, Request) else None


class _EndOfTurn:
    """A call that an event loop makes in each turn, after all others, before it waits for descriptors.

    It has such callbacks in a set, which CPython goes through by hash; as the first of them this would
    do as well.
    """

    def __init__(self) -> None:
        self.function: Callable[[], object] | None = None

    def __call__(self) -> None:
        if self.function is not None:
            self.function()

    def __hash__(self) -> int:
        # The last place of a set, unless somebody has it already.
        return sys.maxsize


class HubCalls:
    """Calls made by an event loop, which watches a descriptor.

    :param uninterrupted: Entered while calls are made.
    """

    def __init__(self, uninterrupted: AbstractContextManager[None]) -> None:
        self._uninterrupted = uninterrupted
        self.propagated: tuple[type[BaseException], ...] = ()
        # Posts the calls that whoever has signalled the descriptor wants.
        self.collect: Callable[[], object] | None = None
        self._end_of_turn = _EndOfTurn()
        self._is_running = False
        self._calls: deque[tuple[Callable[..., object], tuple[Any, ...]]] = deque()
        self._fd: int | None = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)
        # Whether the loop knows; so that not each call needs a system call.
        self._is_signalled = False
        # Reentrant, since a signal handler may come in its holder's thread.
        self._closing = threading.RLock()

    def fileno(self) -> int:
        """Return the descriptor that can be read when there are calls to be made."""
        assert self._fd is not None
        return self._fd

    def register_with(self, loop: Any) -> None:
        """Have a loop make the calls; again when it has forgotten its descriptors."""
        loop.add_reader(self.fileno(), self.run)
        loop.on_tick.add(self._end_of_turn)

    def hand_over_by(self, function: Callable[[], object]) -> None:
        """Set what makes that run which was submitted."""
        self._end_of_turn.function = function

    def submitted(self) -> None:
        """Have what was submitted run: amid the calls at once, else before the loop waits next.

        By then the loop has asked the broker for the next message, which comes while a worker wakes up.
        What takes the place of another task waits for nothing.
        """
        if self._is_running:
            self._end_of_turn()

    def post(self, function: Callable[..., object], *args: Any) -> None:
        """Have the loop call ``function(*args)``. Does not block; may be called from any thread."""
        self._calls.append((function, args))
        if not self._is_signalled:
            self._signal()

    def _signal(self) -> None:
        self._is_signalled = True
        with self._closing:
            # Otherwise the number could be another file's by now.
            if self._fd is not None:
                _eventfd_write(self._fd, 1)

    def is_current(self) -> bool:
        """Whether the calls are made by the thread that asks; true for all that Celery does."""
        return True

    def wait(self, seconds: float) -> None:
        """Wait for calls to be made, so long at most. Blocks; not if none will be made any more."""
        self._end_of_turn()
        fd = self._fd
        if fd is not None:
            poll = select.poll()
            poll.register(fd, select.POLLIN)
            poll.poll(seconds * 1000)

    def run(self) -> None:
        """Make the calls that there are. Called by the loop, and from signal handlers."""
        with self._uninterrupted:
            self._is_running = True
            try:
                self._run()
            except BaseException:
                # The loop must come back for what is left.
                self._signal()
                raise
            finally:
                self._is_running = False
        if self._calls:
            self._signal()

    def _run(self) -> None:
        if self._fd is None:
            return
        with contextlib.suppress(BlockingIOError):
            os.eventfd_read(self._fd)
        if self.collect is not None:
            # What it posts is looked at below.
            self._is_signalled = True
            self.collect()
        # Before looking at the calls: one that is posted from now on signals again.
        self._is_signalled = False
        # No more than are there now, since the loop has others to serve.
        for _ in range(len(self._calls)):
            try:
                function, args = self._calls.popleft()
            except IndexError:
                # The pool was killed by one of the calls.
                return
            function(*args)

    def close(self) -> None:
        """Make no more calls."""
        self._calls.clear()
        with self._closing:
            fd, self._fd = self._fd, None
            if fd is not None:
                os.close(fd)


class ThreadCalls:
    """Calls made by a thread of the pool."""

    def __init__(self) -> None:
        self.propagated: tuple[type[BaseException], ...] = ()
        # One that may be used in signal handlers, unlike those with a lock written in Python.
        self._calls: queue.SimpleQueue[tuple[Callable[..., object], tuple[Any, ...]] | None] = (
            queue.SimpleQueue()
        )
        self.ran: queue.SimpleQueue[None] = queue.SimpleQueue()
        self.is_watched = False
        self._thread = threading.Thread(
            target=self._run, name="deadpool-celery-callbacks", daemon=True
        )
        self._thread.start()

    def post(self, function: Callable[..., object], *args: Any) -> None:
        """Have ``function(*args)`` called. Does not block; may be called from any thread."""
        self._calls.put((function, args))

    def submitted(self) -> None:
        """Do nothing: it runs already."""

    def is_current(self) -> bool:
        """Whether the calls are made by the thread that asks."""
        return threading.current_thread() is self._thread

    def _run(self) -> None:
        while (item := self._calls.get()) is not None:
            function, args = item
            try:
                function(*args)
            except BaseException as error:
                # There is no loop to raise it in: have the main thread end the worker, as it would.
                _logger.critical("a callback of a task ends the worker: %r", error, exc_info=True)
                worker_state.should_terminate = EX_FAILURE
            del item, function, args
            if self.is_watched:
                self.ran.put(None)

    def close(self) -> None:
        """Make no more calls, and wait for the one that is being made. Blocks."""
        self._calls.put(None)
        if not self.is_current():
            self._thread.join()
