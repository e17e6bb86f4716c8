"""Submitting from coroutines."""

from __future__ import annotations

import asyncio
import contextlib
import weakref
from collections import deque
from collections.abc import Callable
from typing import Any

from . import _core
from ._exceptions import BacklogFull
from ._future import Future


class RoomForCoroutines:
    """Lets coroutines wait for room in the backlog, first come, first served within an event loop.

    :param pool: The pool, of which only a weak reference is kept.
    """

    def __init__(self, pool: _core.PoolBase) -> None:
        self._pool = weakref.ref(pool)
        self._queues: weakref.WeakKeyDictionary[asyncio.AbstractEventLoop, _Queue] = (
            weakref.WeakKeyDictionary()
        )

    async def run(
        self, fn: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> Any:
        """Submit as soon as there is room, and return the result."""
        pool = self._pool()
        assert pool is not None
        loop = asyncio.get_running_loop()
        kwargs["deadpool_block"] = False
        queue = self._queues.get(loop)
        if queue is None:
            queue = self._queues.setdefault(loop, _Queue(pool._room_bell(), loop))
        waited = not queue.is_empty()
        if waited:
            await queue.wait(again=False)
        while True:
            try:
                future = pool.submit(fn, *args, **kwargs)
                break
            except BacklogFull:
                await queue.wait(again=waited)
                waited = True
        del pool
        return await _result(future, loop)


async def _result(future: Future[Any], loop: asyncio.AbstractEventLoop) -> Any:
    """Wait for a future's end, and return its result or raise its exception.

    Not by :func:`asyncio.wrap_future`: until Python 3.12 a future of asyncio refuses a StopIteration,
    and never ends. Raised in a coroutine it becomes a RuntimeError, as :pep:`479` has it.
    """
    ended = loop.create_future()

    def wake() -> None:
        if not ended.done():
            ended.set_result(None)

    def tell(_: object) -> None:
        # A loop that is closed has nobody left to tell.
        with contextlib.suppress(RuntimeError):
            loop.call_soon_threadsafe(wake)

    future.add_done_callback(tell)
    try:
        await ended
    except asyncio.CancelledError:
        future.cancel()
        raise
    if future.cancelled():
        raise asyncio.CancelledError
    try:
        return future.result()
    finally:
        # The traceback of an exception refers to this frame.
        del future


class _Turn:
    """A coroutine that waits for its turn to submit.

    :param admitted: The future that it awaits.
    """

    __slots__ = ("admitted", "is_admitted")

    def __init__(self, admitted: asyncio.Future[None]) -> None:
        self.admitted = admitted
        self.is_admitted = False


class _Queue:
    """The coroutines of one event loop that wait for room in one pool.

    Each step takes the same time however many wait: a coroutine that is cancelled leaves its turn in
    the queue, where it is skipped.

    :param bell: It tells of room.
    :param loop: The event loop.
    """

    def __init__(self, bell: _core.RoomBell, loop: asyncio.AbstractEventLoop) -> None:
        self._bell = bell
        self._loop = weakref.ref(loop)
        self._turns: deque[_Turn] = deque()
        # Turns in the queue whose coroutines still wait.
        self._waiting = 0
        # Coroutines whose turn it is and that have not submitted yet.
        self._admitted = 0

    def is_empty(self) -> bool:
        """Return whether no coroutine waits, or was admitted and has not submitted yet."""
        return not self._waiting and not self._admitted

    async def wait(self, *, again: bool) -> None:
        """Wait for the caller's turn to submit.

        :param again: Whether another thread took the room when it was the caller's turn before.
        """
        loop = self._loop()
        assert loop is not None
        turn = _Turn(loop.create_future())
        if not self._waiting:
            loop.add_reader(self._bell.fileno(), self._admit)
        self._waiting += 1
        if again:
            self._turns.appendleft(turn)
        else:
            self._turns.append(turn)
        # Room may have come before there was a coroutine to admit.
        self._admit()
        try:
            await turn.admitted
        finally:
            if turn.is_admitted:
                self._admitted -= 1
                # The caller may not take the room, which is then the next one's.
                loop.call_soon(self._admit)
            else:
                self._waiting -= 1
            if not self._waiting:
                self._turns.clear()
                loop.remove_reader(self._bell.fileno())

    def _admit(self) -> None:
        room = self._bell.take_free_slots() - self._admitted
        while self._turns and room > 0:
            turn = self._turns.popleft()
            if turn.admitted.done():
                # Cancelled; its coroutine has not run since, or has counted itself out.
                continue
            turn.is_admitted = True
            self._waiting -= 1
            self._admitted += 1
            turn.admitted.set_result(None)
            room -= 1
