"""``Deadpool.map``: many calls of one function, in chunks."""

from __future__ import annotations

import itertools
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator

from ._checks import check_whole

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from ._future import Future


def run_chunk(fn: Callable[..., Any], chunk: tuple[tuple[Any, ...], ...]) -> list[Any]:
    """Make the calls of a chunk; in the worker."""
    return [fn(*args) for args in chunk]


def results(
    submit: Callable[..., Future],
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
    submissions = _submissions(submit, fn, calls, chunksize, options)
    futures = deque(itertools.islice(submissions, buffersize))
    if buffersize is None:
        submissions = iter(())
    each = _results(futures, submissions, deadline)
    return each if chunksize == 1 else itertools.chain.from_iterable(each)


def _submissions(
    submit: Callable[..., Future],
    fn: Callable[..., Any],
    calls: Iterator[tuple[Any, ...]],
    chunksize: int,
    options: dict[str, Any],
) -> Iterator[Future]:
    if chunksize == 1:
        for args in calls:
            yield submit(fn, *args, **options)
    else:
        while chunk := tuple(itertools.islice(calls, chunksize)):
            yield submit(run_chunk, fn, chunk, **options)


def _results(
    futures: deque[Future], submissions: Iterator[Future], deadline: float | None
) -> Iterator[Any]:
    try:
        while futures:
            # Submitted before the wait, so that the workers have something to do meanwhile.
            next_future = next(submissions, None)
            if next_future is not None:
                futures.append(next_future)
            # Nothing here may hold on to a result once it was handed out.
            yield _result(futures.popleft(), deadline)
    finally:
        for future in futures:
            future.cancel()


def _result(future: Future, deadline: float | None) -> Any:
    try:
        try:
            return future.result(None if deadline is None else deadline - time.monotonic())
        finally:
            future.cancel()
    finally:
        del future
