"""The interface of :class:`multiprocessing.Pool`, on a pool that cannot hang.

``from deadpool.pool import Pool`` in place of ``from multiprocessing import Pool``: nothing else
changes, but that a worker's death fails its task at once with :class:`WorkerLostError`. billiard's
additions are there as well. Where the two differ the standard library's behaviour wins, unless
``compat="billiard"`` asks for the other's.
"""

from __future__ import annotations

import multiprocessing.pool
import operator
import signal
import threading
import warnings
from collections.abc import Callable, Iterable, Mapping
from multiprocessing.context import BaseContext
from multiprocessing.pool import MaybeEncodingError  # type: ignore[attr-defined]
from types import TracebackType
from typing import Any, NoReturn, TypeVar

from ._checks import (
    check_arguments,
    check_callable,
    check_importable,
    check_seconds,
    check_signal,
    check_whole,
)
from ._executor import Deadpool
from ._pool import imap as imap_results
from ._pool import worker as pool_worker
from ._pool.callbacks import Callbacks, Teller
from ._pool.engine import Engine
from ._pool.errors import (
    RestartFreqExceeded,
    SoftTimeLimitExceeded,
    Terminated,
    TimeLimitExceeded,
    WorkerLostError,
    exception_info,
)
from ._pool.imap import IMapIterator, IMapUnorderedIterator
from ._pool.processes import PoolProcess, Processes
from ._pool.results import ApplyResult, AsyncResult, MapResult, release_after
from ._pool.slots import ForeignSlots, Slots

__all__ = [
    "ApplyResult",
    "AsyncResult",
    "IMapIterator",
    "IMapUnorderedIterator",
    "MapResult",
    "MaybeEncodingError",
    "Pool",
    "PoolProcess",
    "RestartFreqExceeded",
    "SoftTimeLimitExceeded",
    "Terminated",
    "TimeLimitExceeded",
    "WorkerLostError",
]

S = TypeVar("S")
T = TypeVar("T")

RUN, CLOSE, TERMINATE = "RUN", "CLOSE", "TERMINATE"
# So long at most is waited for processes that somebody wants to see.
_START_SECONDS = 30.0


class Pool(multiprocessing.pool.Pool):
    """A pool of worker processes, with the interface of :class:`multiprocessing.Pool`.

    :param processes: How many workers. By default as many as this process may use CPUs.
    :param initializer: Called with ``initargs`` in each worker before its first task. If it raises,
        the task that waits for the worker fails with a :class:`deadpool.ProcessError`.
    :param initargs: Its arguments.
    :param maxtasksperchild: After how many tasks, calls or chunks, a worker is replaced.
    :param context: A multiprocessing context, or a start method's name; by default that of
        :mod:`multiprocessing`, and so its start method.
    :param timeout: Seconds that a task, a call or a chunk, may run before it is killed and fails with
        :class:`TimeLimitExceeded`. 0 means at once, None means for ever.
    :param soft_timeout: Seconds after which :class:`SoftTimeLimitExceeded` is raised in the task.
    :param max_memory_per_child: KiB of resident memory; a worker that has more after a task is
        replaced.
    :param on_process_up: Called with each :class:`PoolProcess` that was started.
    :param on_process_down: Called with each that has exited.
    :param on_timeout_set: Called with result, soft and hard timeout when these begin to count.
    :param on_timeout_cancel: Called with the result when they no longer do.
    :param putlocks: Whether ``apply_async`` blocks while there are as many tasks as workers.
    :param semaphore: What it waits for then, instead of a counter of the pool's own.
    :param compat: ``"billiard"``: a closed pool returns None where this one raises ValueError, error
        callbacks get an ``ExceptionInfo``, and a timeout of 0 means the pool's.
    :param lost_worker_timeout: Accepted and not needed: a death is known at once. So are
        ``max_restarts``, ``max_restart_freq``, ``allow_restart`` and ``enable_timeouts``.
    :raises ValueError: If a number is out of range.
    :raises TypeError: If an argument is of another type.
    """

    # Seen by __del__ if __init__ fails.
    _state = "INIT"

    def __init__(
        self,
        processes: int | None = None,
        initializer: Callable[..., object] | None = None,
        initargs: Iterable[Any] = (),
        maxtasksperchild: int | None = None,
        context: BaseContext | str | None = None,
        *,
        timeout: float | None = None,
        soft_timeout: float | None = None,
        max_memory_per_child: int | None = None,
        on_process_up: Callable[[PoolProcess], object] | None = None,
        on_process_down: Callable[[PoolProcess], object] | None = None,
        on_timeout_set: Callable[..., object] | None = None,
        on_timeout_cancel: Callable[..., object] | None = None,
        putlocks: bool = False,
        semaphore: Any = None,
        compat: str | None = None,
        lost_worker_timeout: float | None = None,  # noqa: ARG002
        max_restarts: int | None = None,  # noqa: ARG002
        max_restart_freq: float | None = 1,  # noqa: ARG002
        allow_restart: bool = False,  # noqa: ARG002
        enable_timeouts: bool = False,  # noqa: ARG002
    ) -> None:
        if processes is not None:
            processes = int(operator.index(processes))
            if processes < 1:
                raise ValueError("Number of processes must be at least 1")
        maxtasksperchild = _check_maxtasksperchild(maxtasksperchild)
        if initializer is not None and not callable(initializer):
            raise TypeError("initializer must be a callable")
        if compat not in (None, "billiard"):
            raise ValueError(f"compat must be None or 'billiard', not {compat!r}")
        for name, seconds in (("timeout", timeout), ("soft_timeout", soft_timeout)):
            if seconds is not None:
                check_seconds(name, seconds)
        check_whole("max_memory_per_child", max_memory_per_child, 1)
        check_callable("on_process_up", on_process_up)
        check_callable("on_process_down", on_process_down)
        check_callable("on_timeout_set", on_timeout_set)
        check_callable("on_timeout_cancel", on_timeout_cancel)
        initargs = check_arguments("initargs", initargs)
        self._is_billiard = compat == "billiard"
        self._on_timeouts = {"timeout_set": on_timeout_set, "timeout_cancelled": on_timeout_cancel}
        self._ctx = _check_context(context)
        method = self._ctx.get_start_method()
        if method != "fork":
            check_importable(initializer)
        teller = Teller()
        present = Processes(teller, on_process_up, on_process_down)
        executor = Deadpool(
            processes,
            max_tasks_per_child=maxtasksperchild,
            max_worker_memory_bytes=None
            if max_memory_per_child is None
            else max_memory_per_child << 10,
            mp_context=self._ctx,
            initializer=pool_worker.start,
            initargs=(method, initializer, initargs),
            max_backlog=None,
            on_initializer_error="fail",
            on_worker_up=present.up,
            on_worker_down=present.down,
        )
        self._processes = executor._max_workers
        # Held while the size changes.
        self._resizing = threading.Lock()
        if self._is_billiard:
            timeout, soft_timeout = timeout or None, soft_timeout or None
        self._limits = {"timeout": timeout, "soft_timeout": soft_timeout}
        self._putlocks = putlocks
        self._slots = Slots(self._processes) if semaphore is None else ForeignSlots(semaphore)
        self._engine = Engine(executor, present, teller, self._slots.clear)
        self._state = RUN
        if method == "fork":
            # What the workers are copies of is this process as it is now.
            present.wait_for(self._processes, _START_SECONDS)

    def __del__(self, _warn: Any = warnings.warn, _run: str = RUN) -> None:
        if self._state == _run:
            _warn(f"unclosed running multiprocessing pool {self!r}", ResourceWarning, source=self)
        if hasattr(self, "_engine"):
            self._engine.close()

    def __repr__(self) -> str:
        cls = type(self)
        size = len(self._engine.processes.present()) if hasattr(self, "_engine") else 0
        return f"<{cls.__module__}.{cls.__qualname__} state={self._state} pool_size={size}>"

    def __reduce__(self) -> NoReturn:
        raise NotImplementedError("pool objects cannot be passed between processes or pickled")

    def __enter__(self) -> Pool:  # noqa: PYI034
        self._check_running()
        return self

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc_val: BaseException | None,
        exc_tb: TracebackType | None,
    ) -> None:
        self.terminate()

    # Calls.

    def apply(
        self,
        func: Callable[..., T],
        args: Iterable[Any] = (),
        kwds: Mapping[str, Any] = {},
    ) -> T:
        """Return the result of ``func(*args, **kwds)`` in a worker. Blocks.

        :raises ValueError: If the pool is not running.
        """
        self._check_running()
        future = self._engine.submit(func, args, kwds, **self._limits)
        return ApplyResult(self._engine, [future], Callbacks(), **self._limits).get()

    def apply_async(
        self,
        func: Callable[..., T],
        args: Iterable[Any] = (),
        kwds: Mapping[str, Any] = {},
        callback: Callable[[T], object] | None = None,
        error_callback: Callable[[Any], object] | None = None,
        accept_callback: Callable[[int, float], object] | None = None,
        timeout_callback: Callable[..., object] | None = None,
        waitforslot: bool | None = None,
        soft_timeout: float | None = None,
        timeout: float | None = None,
        lost_worker_timeout: float | None = None,  # noqa: ARG002
        callbacks_propagate: Iterable[type[BaseException]] = (),  # noqa: ARG002
        correlation_id: Any = None,
    ) -> ApplyResult[T]:
        """Submit ``func(*args, **kwds)``, and return a result object.

        Does not block, unless ``putlocks`` or ``waitforslot`` want it to. Callbacks run one after
        the other, in a thread of the pool; what they raise is logged.

        :param callback: Called with the result.
        :param error_callback: Called with the exception.
        :param accept_callback: Called with pid and :func:`time.monotonic` when the task begins.
        :param timeout_callback: Called with ``soft`` and ``timeout`` when a limit has passed.
        :param waitforslot: Whether to block while there are as many tasks as workers; by default as
            the pool's ``putlocks`` says.
        :param soft_timeout: As the pool's; by default the pool's.
        :param timeout: As the pool's; by default the pool's.
        :param lost_worker_timeout: Not needed.
        :param callbacks_propagate: Not needed: nothing that a callback raises can stop the pool.
        :param correlation_id: Kept as an attribute of the result.
        :raises ValueError: If the pool is not running.
        """
        if self._is_refused():
            return None  # type: ignore[return-value]
        limits = {
            "timeout": self._limit("timeout", timeout),
            "soft_timeout": self._limit("soft_timeout", soft_timeout),
        }
        callbacks = self._callbacks(callback, error_callback, accept_callback, timeout_callback)
        waits = self._putlocks if waitforslot is None else waitforslot
        if waits:
            self._slots.acquire()
        try:
            if self._is_refused():
                return None  # type: ignore[return-value]
            future = self._engine.submit(func, args, kwds, **limits)
        except BaseException:
            if waits:
                self._slots.release()
            raise
        if waits:
            release_after(self._slots, future)
        return ApplyResult(
            self._engine, [future], callbacks, correlation_id=correlation_id, **limits
        )

    def map(
        self, func: Callable[[S], T], iterable: Iterable[S], chunksize: int | None = None
    ) -> list[T]:
        """Return the list of ``func(item)`` for each item. Blocks.

        :param chunksize: How many items make one task; by default so that there are four for each
            worker.
        """
        return self.map_async(func, iterable, chunksize).get()

    def starmap(
        self,
        func: Callable[..., T],
        iterable: Iterable[Iterable[Any]],
        chunksize: int | None = None,
    ) -> list[T]:
        """Return the list of ``func(*item)`` for each item. Blocks."""
        return self.starmap_async(func, iterable, chunksize).get()

    def map_async(
        self,
        func: Callable[[S], T],
        iterable: Iterable[S],
        chunksize: int | None = None,
        callback: Callable[[list[T]], object] | None = None,
        error_callback: Callable[[Any], object] | None = None,
    ) -> MapResult[T]:
        """Submit ``func(item)`` for each item, and return a result object."""
        over = pool_worker.OverChunk
        return self._map(over, func, iterable, chunksize, callback, error_callback)

    def starmap_async(
        self,
        func: Callable[..., T],
        iterable: Iterable[Iterable[Any]],
        chunksize: int | None = None,
        callback: Callable[[list[T]], object] | None = None,
        error_callback: Callable[[Any], object] | None = None,
    ) -> MapResult[T]:
        """Submit ``func(*item)`` for each item, and return a result object."""
        over = pool_worker.OverStarredChunk
        return self._map(over, func, iterable, chunksize, callback, error_callback)

    def _map(
        self,
        over: type[pool_worker.OverChunk],
        func: Callable[..., T],
        iterable: Iterable[Any],
        chunksize: int | None,
        callback: Callable[[list[T]], object] | None,
        error_callback: Callable[[Any], object] | None,
    ) -> MapResult[T]:
        if self._is_refused():
            return None  # type: ignore[return-value]
        items: Any = iterable if hasattr(iterable, "__len__") else list(iterable)
        if chunksize is None:
            chunksize = max(1, -(-len(items) // (self._processes * 4)))
        chunksize = _check_chunksize(chunksize)
        callbacks = self._callbacks(callback, error_callback)
        task: Any = func
        if callable(task):
            task = over(func)
        chunks = imap_results.Chunks(items, chunksize)
        futures = [self._engine.submit(task, [chunk], {}, **self._limits) for chunk in chunks]
        return MapResult(self._engine, futures, callbacks, error=chunks.error, **self._limits)

    def imap(
        self, func: Callable[[S], T], iterable: Iterable[S], chunksize: int | None = 1
    ) -> IMapIterator[T]:
        """Return an iterator over ``func(item)`` for each item, in order.

        The iterable may be lazy or infinite: no more is taken from it than keeps the workers busy,
        until the results are read. See :ref:`imap` in the documentation.
        """
        return self._imap(func, iterable, chunksize, ordered=True)

    def imap_unordered(
        self, func: Callable[[S], T], iterable: Iterable[S], chunksize: int | None = 1
    ) -> IMapIterator[T]:
        """Return an iterator over ``func(item)`` for each item, in the order in which they end."""
        return self._imap(func, iterable, chunksize, ordered=False)

    def _imap(
        self, func: Callable[[S], T], iterable: Iterable[S], chunksize: int | None, *, ordered: bool
    ) -> IMapIterator[T]:
        self._check_running()
        chunksize = 1 if chunksize is None else _check_chunksize(chunksize)
        task = func if chunksize == 1 or not callable(func) else pool_worker.OverChunk(func)
        return imap_results.start(
            self._engine,
            task,
            iterable,
            workers=self._processes,
            chunksize=chunksize,
            ordered=ordered,
            limits=self._limits,
        )

    # The end.

    def close(self) -> None:
        """Take no more tasks; workers go when all are done. Does not block."""
        if self._state == RUN:
            self._state = CLOSE
            self._engine.close()

    def terminate(self) -> None:
        """Kill the workers now; what has not ended fails with :class:`Terminated`.

        Blocks until they are gone and callbacks have returned; in a callback, only the former.
        """
        self._state = TERMINATE
        self._engine.terminate()
        self._engine.join()

    def join(self) -> None:
        """Wait until all workers are gone. Blocks.

        :raises ValueError: If the pool was not closed or terminated.
        """
        if self._state == RUN:
            raise ValueError("Pool is still running")
        self._engine.join()

    # Workers.

    def grow(self, n: int = 1) -> None:
        """Add workers."""
        with self._resizing:
            self._resize(check_whole("n", n, 0) or 0)

    def shrink(self, n: int = 1) -> None:
        """Remove workers that are idle.

        :raises ValueError: If so many are not.
        """
        n = check_whole("n", n, 0) or 0
        with self._resizing:
            workers = self._engine.executor.workers()
            idle = [worker for worker in workers if worker.state != "busy"]
            if len(idle) < n or self._processes <= n:
                raise ValueError("Can't shrink pool. All processes busy!")
            self._resize(-n)

    def _resize(self, change: int) -> None:
        self._check_running()
        self._engine.executor.resize(self._processes + change)
        self._processes += change
        adjust = self._slots.grow if change > 0 else self._slots.shrink
        for _ in range(abs(change)):
            adjust()

    def restart(self) -> None:
        """Replace all workers: idle ones at once, busy ones after their task."""
        self._engine.executor.clear_workers()

    def terminate_job(self, pid: int, sig: int | None = None) -> None:
        """Send a signal, SIGTERM by default, to a worker; its task fails with :class:`Terminated`.

        Does nothing if no worker of this pool has that id.

        :raises ValueError: If there is no such signal.
        """
        number = check_signal("sig", signal.SIGTERM if sig is None else sig)
        # A task may be known to run on a process before the thread that tells of both has told.
        is_ours = pid in {worker.pid for worker in self._engine.executor.workers()}
        timeout = _START_SECONDS if is_ours else 0.0
        self._engine.processes.terminate_job(pid, number, timeout)

    def did_start_ok(self) -> bool:
        """Whether no worker has exited since this was asked last."""
        return self._engine.processes.take_exits() == 0

    def maintain_pool(self) -> None:
        """Do nothing: the pool maintains itself."""

    def _repopulate_pool(self) -> None:
        """Do nothing, under the name that the standard library has for it."""

    @property
    def _pool(self) -> list[PoolProcess]:
        # Private in the standard library, and read by many programs all the same.
        processes = self._engine.processes
        if self._state == RUN:
            processes.wait_for(self._processes, _START_SECONDS)
        return processes.present()

    # What the rest is made of.

    def _check_running(self) -> None:
        if self._state != RUN:
            raise ValueError("Pool not running")

    def _is_refused(self) -> bool:
        if self._state != RUN and self._is_billiard:
            return True
        self._check_running()
        return False

    def _limit(self, name: str, value: float | None) -> float | None:
        if value is None or (self._is_billiard and not value):
            return self._limits[name]
        check_seconds(name, value)
        return value

    def _callbacks(
        self, done: Any, failed: Any, accepted: Any = None, timed_out: Any = None
    ) -> Callbacks:
        check_callable("callback", done)
        check_callable("error_callback", failed)
        check_callable("accept_callback", accepted)
        check_callable("timeout_callback", timed_out)
        wrap = exception_info if self._is_billiard else None
        return Callbacks(done, failed, accepted, timed_out, **self._on_timeouts, wrap=wrap)


def _check_maxtasksperchild(value: Any) -> int | None:
    if value is not None and (not isinstance(value, int) or value <= 0):
        raise ValueError("maxtasksperchild must be a positive int or None")
    # True is an int as well.
    return None if value is None else int(value)


def _check_context(context: BaseContext | str | None) -> BaseContext:
    if context is None or isinstance(context, str):
        return multiprocessing.get_context(context)
    if not isinstance(context, BaseContext):
        raise TypeError(f"context must be a multiprocessing context, not {type(context)}")
    return context


def _check_chunksize(chunksize: int) -> int:
    chunksize = operator.index(chunksize)
    if chunksize < 1:
        raise ValueError(f"Chunksize must be 1+, not {chunksize}")
    return chunksize
