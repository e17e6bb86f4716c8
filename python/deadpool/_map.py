"""``Deadpool.map``: many calls of one function, in chunks."""

from __future__ import annotations

import contextlib
import functools
import itertools
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator

from ._checks import check_whole
from ._exceptions import BacklogFull, PoolClosed

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from ._future import Future


def run_chunk(fn: Callable[..., Any], chunk: tuple[tuple[Any, ...], ...]) -> list[Any]:
    """Make the calls of a chunk; in the worker."""
    return [fn(*args) for args in chunk]


def results(
    submit: Callable[..., Future[Any]],
    fn: Callable[..., Any],
    iterables: tuple[Iterable[Any], ...],
    timeout: float | None,
    chunksize: Any,
    buffersize: Any,
    options: dict[str, Any],
) -> Iterator[Any]:
    """Return an iterator over the results; see :meth:`deadpool.Deadpool.map`."""
    if chunksize is None:
        raise TypeError("chunksize must be an integer, not None")
    chunksize = check_whole("chunksize", chunksize, 1)
    buffersize = check_whole("buffersize", buffersize, 1)
    if timeout is not None and not isinstance(timeout, (int, float)):
        raise TypeError(f"timeout must be a number of seconds or None, not {type(timeout)}")
    if not callable(fn):
        raise TypeError(f"the first argument of map() must be callable, not {type(fn)}")
    deadline = None if timeout is None else time.monotonic() + timeout
    calls = zip(*iterables, strict=False)
    if chunksize == 1:
        return _Results(submit, fn, calls, buffersize, deadline, options)
    chunks = ((fn, chunk) for chunk in iter(lambda: tuple(itertools.islice(calls, chunksize)), ()))
    each = _Results(submit, run_chunk, chunks, buffersize, deadline, options)
    return _Chained(each)


class _Results:
    """The iterator over results: it submits one more task for each result that is taken.

    When it is made, it submits as many as ``buffersize`` allows, or without one as many as the backlog
    has room for. An iterator that is dropped before its first result was asked for has been wanted for
    what the calls do: it submits them all, as the standard library's would have done at once.

    :param submit: The pool's.
    :param fn: What each task calls.
    :param calls: The arguments of each task.
    :param buffersize: How many tasks may be ahead of the iteration; None leaves that to the backlog.
    :param deadline: When a result must have come.
    :param options: Keywords of ``submit``.
    """

    def __init__(
        self,
        submit: Callable[..., Future[Any]],
        fn: Callable[..., Any],
        calls: Iterator[tuple[Any, ...]],
        buffersize: int | None,
        deadline: float | None,
        options: dict[str, Any],
    ) -> None:
        self._submit = functools.partial(submit, fn, **options)
        self._calls = calls
        self._deadline = deadline
        self._blocks = buffersize is not None
        # A call that the backlog had no room for.
        self._refused: tuple[Any, ...] | None = None
        self._futures: deque[Future[Any]] = deque()
        self._is_started = False
        try:
            while len(self._futures) != buffersize and self._submit_next(block=self._blocks):
                pass
        except BaseException:
            self.close()
            raise

    def __iter__(self) -> _Results:
        return self

    def __next__(self) -> Any:
        self._is_started = True
        try:
            # Submitted before the wait, so that the workers have something to do meanwhile.
            self._submit_next(block=self._blocks or not self._futures)
            future = self._futures.popleft() if self._futures else None
        except BaseException:
            self.close()
            raise
        if future is None:
            raise StopIteration
        try:
            # Nothing here may hold on to a result once it was handed out.
            return _result(future, self._deadline)
        except StopIteration as error:
            self.close()
            # It would be taken for the end of the iteration, see PEP 479.
            raise RuntimeError("a task raised StopIteration") from error
        except BaseException:
            self.close()
            raise
        finally:
            del future

    def _submit_next(self, *, block: bool) -> bool:
        """Submit one more task; return whether there was one, and room for it."""
        args = self._refused
        if args is None:
            args = next(self._calls, None)
            if args is None:
                return False
        self._refused = args
        try:
            self._futures.append(self._submit(*args, deadpool_block=block))
        except BacklogFull:
            return False
        self._refused = None
        return True

    def close(self) -> None:
        """Cancel what has not ended, and submit no more."""
        self._is_started = True
        self._calls = iter(())
        self._refused = None
        while self._futures:
            self._futures.popleft().cancel()

    def __del__(self) -> None:
        if not hasattr(self, "_is_started"):
            return
        if self._is_started:
            self.close()
            return
        # A pool that was closed meanwhile wants no more.
        with contextlib.suppress(PoolClosed):
            while self._submit_next(block=True):
                pass


class _Chained:
    """The results of chunks, one after the other.

    :param chunks: An iterator over lists of results.
    """

    def __init__(self, chunks: _Results) -> None:
        self._chunks = chunks
        self._chunk: Iterator[Any] = iter(())

    def __iter__(self) -> _Chained:
        return self

    def __next__(self) -> Any:
        while True:
            for value in self._chunk:
                return value
            self._chunk = iter(_emptied(next(self._chunks)))

    def close(self) -> None:
        """Cancel what has not ended, and submit no more."""
        self._chunks.close()
        self._chunk = iter(())


def _emptied(values: list[Any]) -> Iterator[Any]:
    """Hand out values without holding on to those that were handed out."""
    values.reverse()
    while values:
        yield values.pop()


def _result(future: Future[Any], deadline: float | None) -> Any:
    try:
        try:
            return future.result(None if deadline is None else deadline - time.monotonic())
        finally:
            future.cancel()
    finally:
        del future
