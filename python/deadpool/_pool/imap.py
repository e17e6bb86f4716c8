"""``imap`` and ``imap_unordered``: a thread takes calls from the iterable, while there is room.

There is room while few enough results wait for their reader. An iterable may therefore be infinite,
and may be an iterator over results of the same pool: each ``imap`` has a thread of its own, that
ends with its iterable. When nobody is going to read on, three things can be meant:

- The pool was closed. All of a finite iterable is to run, so there is room while few enough tasks
  are unfinished.
- The iterator was dropped unread. Its calls are made for their effects: the same holds.
- The iterator was dropped after some reading: the reader has found what it looked for, and no more
  is taken from the iterable.

What the iterable raises is raised by the iterator, in its place.
"""

from __future__ import annotations

import functools
import itertools
import multiprocessing
import multiprocessing.pool
import queue
import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from typing import TYPE_CHECKING, Any, Generic, TypeVar

from .._future import Future
from .engine import Engine
from .errors import terminated

T = TypeVar("T")
# A success with its value, or a failure with its exception.
Outcome = tuple[bool, Any]

# Calls that may be ahead of the reader for each worker; as many as the core sends ahead, twice.
_AHEAD = 64
# Chunks that may be ahead for each worker, however large they are.
_CHUNKS_AHEAD = 4


class Chunks:
    """Cuts an iterable into lists, and ends early if it raises.

    :param iterable: The iterable.
    :param size: How long the lists are.
    """

    def __init__(self, iterable: Iterable[Any], size: int) -> None:
        self._iterable = iterable
        self._size = size
        self.error: BaseException | None = None

    def __iter__(self) -> Iterator[list[Any]]:
        try:
            items = iter(self._iterable)
            while chunk := list(itertools.islice(items, self._size)):
                yield chunk
                del chunk
        except Exception as error:
            self.error = error


class Feed:
    """What the feeding thread, the completer and the reader share.

    :param engine: The pool's.
    :param workers: How many workers there are.
    :param chunksize: How many calls make one task.
    :param ordered: Whether results come in the order of the calls.
    :param limits: The timeouts of each task.
    """

    def __init__(
        self,
        engine: Engine,
        workers: int,
        chunksize: int,
        ordered: bool,
        limits: dict[str, float | None],
    ) -> None:
        # Until the feeder has ended and all has arrived: the rest may be read long after.
        self._engine: Engine | None = engine
        self._limits = limits
        self._chunksize = chunksize
        self._ordered = ordered
        self._limit = workers * max(_CHUNKS_AHEAD, _AHEAD // chunksize)
        # Wakes the feeder. Its put may be called where a lock may not be waited for.
        self._wakes: queue.SimpleQueue[None] = queue.SimpleQueue()
        self._lock = threading.Lock()
        self._came = threading.Condition(self._lock)
        # Outcomes that can be read, and those whose turn has not come.
        self._readable: deque[Outcome] = deque()
        self._early: dict[int, Outcome] = {}
        # Tasks, counted: submitted, ended, made readable, read.
        self._submitted = 0
        self._ended = 0
        self._arrived = 0
        self._read = 0
        # How many outcomes there will be, once that is known.
        self._length: int | None = None
        self._is_fed = False
        self._is_hurried = False
        self._is_dropped = False

    def run(self, func: Callable[..., Any], iterable: Iterable[Any]) -> None:
        """Take calls from the iterable and submit them. Blocks, for a thread of its own."""
        try:
            iterator = iter(iterable)
            while self._wait_for_room():
                calls = list(itertools.islice(iterator, self._chunksize))
                # A task over one item has its own result, and a task over a chunk a list.
                if not calls or not self._submit(func, calls if self._chunksize == 1 else [calls]):
                    break
                del calls
        except BaseException as error:
            self._put_last(error)
        finally:
            self._end()

    def _submit(self, func: Callable[..., Any], arguments: list[Any]) -> bool:
        with self._lock:
            if self._length is not None:
                return False
            index = self._submitted
            self._submitted += 1
        assert self._engine is not None
        try:
            future = self._engine.submit(func, arguments, {}, **self._limits)
        except BaseException as error:
            # Somebody may wait for this index already.
            self._put(index, (False, terminated() if self._engine.terminated else error))
            return False
        future.add_done_callback(functools.partial(self._done, index))
        return True

    def _wait_for_room(self) -> bool:
        if self._count_ahead() >= self._limit:
            # It is woken when half of that has been read, and not for each single result.
            while not self._is_over() and self._count_ahead() > self._limit // 2:
                self._wakes.get()
        return not self._is_over()

    def _is_over(self) -> bool:
        return self._length is not None or (self._is_dropped and self._read > 0)

    def _count_ahead(self) -> int:
        done = self._ended if self._is_hurried or self._is_dropped else self._read
        return self._submitted - done

    def _done(self, index: int, future: Future[Any]) -> None:
        assert self._engine is not None
        error = self._engine.failure(future, self._limits["timeout"])
        self._put(index, (False, error) if error is not None else (True, future.result(0)))

    def _put(self, index: int, outcome: Outcome) -> None:
        with self._lock:
            self._ended += 1
            if self._is_dropped:
                self._arrived += 1
                self._readable.clear()
                self._early.clear()
            elif self._ordered:
                self._early[index] = outcome
                while (turn := self._early.pop(self._arrived, None)) is not None:
                    self._make_readable(turn)
            else:
                self._make_readable(outcome)
            if self._length == self._arrived:
                self._came.notify_all()
            self._wake_feeder()
            self._leave_if_done()

    def _wake_feeder(self) -> None:
        if self._count_ahead() == self._limit // 2:
            self._wakes.put(None)

    def _make_readable(self, outcome: Outcome) -> None:
        self._arrived += 1
        self._readable.append(outcome)
        self._came.notify()

    def _put_last(self, error: BaseException) -> None:
        with self._lock:
            if self._length is not None:
                return
            index = self._submitted
            self._submitted += 1
            self._length = self._submitted
        self._put(index, (False, error))

    def _end(self) -> None:
        """Say that the feeder has ended."""
        with self._lock:
            if self._length is None:
                self._length = self._submitted
            self._came.notify_all()
            engine, self._is_fed = self._engine, True
            self._leave_if_done()
        if engine is not None:
            engine.remove_feeder(self)

    def _leave_if_done(self) -> None:
        if self._is_fed and self._length == self._arrived:
            self._engine = None

    def read(self, timeout: float | None) -> Outcome:
        """Return the next outcome. Blocks for at most ``timeout`` seconds.

        :raises StopIteration: After the last.
        :raises multiprocessing.TimeoutError: If it does not come in time.
        """
        with self._came:
            came = self._came.wait_for(
                lambda: self._readable or self._arrived == self._length, timeout
            )
            if self._readable:
                self._read += 1
                self._wake_feeder()
                return self._readable.popleft()
        if came:
            raise StopIteration
        raise multiprocessing.TimeoutError

    def drop(self) -> None:
        """Hear that nobody is going to read any more; from the garbage collector, at any point."""
        self._is_dropped = True
        self._wakes.put(None)

    def hurry(self) -> None:
        """Wait for no reader any more, since the pool was closed."""
        self._is_hurried = True
        self._wakes.put(None)

    def stop(self) -> None:
        """Take no more, since the pool was terminated; the reader is told after what was submitted."""
        self._put_last(terminated())
        self._wakes.put(None)


if TYPE_CHECKING:

    class _Standard(multiprocessing.pool.IMapIterator[T]):
        """The standard library's, which takes its parameter in typeshed alone."""

else:

    class _Standard(multiprocessing.pool.IMapIterator, Generic[T]):
        """The standard library's, with a parameter."""


class IMapIterator(_Standard[T]):
    """Iterates over the results of ``imap``, or of ``imap_unordered``.

    :param feed: Where they come from.
    :param chunked: Whether each outcome is a list of results.
    """

    __module__ = "deadpool.pool"

    def __init__(self, feed: Feed, chunked: bool) -> None:
        self._feed = feed
        self._chunked = chunked
        self._chunk: Iterator[T] = iter(())

    def __del__(self) -> None:
        self._feed.drop()

    def __iter__(self) -> IMapIterator[T]:
        return self

    def next(self, timeout: float | None = None) -> T:
        """Return the next result, or raise its task's exception. Blocks for at most ``timeout`` seconds.

        :raises StopIteration: After the last.
        :raises multiprocessing.TimeoutError: If it does not come in time.
        """
        while True:
            for result in self._chunk:
                return result
            success, value = self._feed.read(timeout)
            if not success:
                raise value
            if not self._chunked:
                only: T = value
                return only
            self._chunk = iter(value)

    __next__ = next


class IMapUnorderedIterator(IMapIterator[T]):
    """Iterates over the results of ``imap_unordered``, as they come."""

    __module__ = "deadpool.pool"


def start(
    engine: Engine,
    func: Callable[..., Any],
    iterable: Iterable[Any],
    *,
    workers: int,
    chunksize: int,
    ordered: bool,
    limits: dict[str, float | None],
) -> IMapIterator[Any]:
    """Begin to take calls from an iterable, and return the iterator over their results.

    :raises ValueError: If the pool is closed.
    """
    feed = Feed(engine, workers, chunksize, ordered, limits)
    engine.add_feeder(feed)
    thread = threading.Thread(
        target=feed.run, args=(func, iterable), name="deadpool-imap", daemon=True
    )
    try:
        thread.start()
    except BaseException:
        engine.remove_feeder(feed)
        raise
    made = IMapIterator if ordered else IMapUnorderedIterator
    return made(feed, chunksize > 1)
