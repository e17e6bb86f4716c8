"""Submitting from coroutines."""

from __future__ import annotations

import asyncio
import weakref
from collections import deque
from collections.abc import Callable
from typing import Any

from . import _core
from ._exceptions import BacklogFull


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
        return await asyncio.wrap_future(future, loop=loop)


class _Queue:
    """The coroutines of one event loop that wait for room in one pool.

    :param bell: What tells of room.
    :param loop: The event loop.
    """

    def __init__(self, bell: _core.RoomBell, loop: asyncio.AbstractEventLoop) -> None:
        self._bell = bell
        self._loop = weakref.ref(loop)
        self._waiting: deque[asyncio.Future[None]] = deque()
        # Those whose turn it is and who have not come to submit.
        self._admitted = 0

    def is_empty(self) -> bool:
        """Whether nobody waits, or was let in and has not come to submit."""
        return not self._waiting and not self._admitted

    async def wait(self, *, again: bool) -> None:
        """Wait for one's turn to submit.

        :param again: Whether somebody else took the room when it was one's turn before.
        """
        loop = self._loop()
        assert loop is not None
        turn = loop.create_future()
        if not self._waiting:
            loop.add_reader(self._bell.fileno(), self._admit)
        if again:
            self._waiting.appendleft(turn)
        else:
            self._waiting.append(turn)
        # Room may have come before there was anybody to tell.
        self._admit()
        try:
            await turn
        finally:
            if turn in self._waiting:
                self._waiting.remove(turn)
            else:
                self._admitted -= 1
                # The turn may not be taken, and is then the next one's.
                loop.call_soon(self._admit)
            if not self._waiting:
                loop.remove_reader(self._bell.fileno())

    def _admit(self) -> None:
        room = self._bell.take_free_slots() - self._admitted
        while self._waiting and room > 0:
            turn = self._waiting.popleft()
            self._admitted += 1
            if not turn.done():
                turn.set_result(None)
                room -= 1
