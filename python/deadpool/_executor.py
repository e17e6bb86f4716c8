"""The executor."""

from __future__ import annotations

import concurrent.futures
import pickle
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping

from . import _core, _legacy, _map
from ._checks import (
    check_arguments,
    check_callable,
    check_importable,
    check_seconds,
    check_whole,
)
from ._core import ShutdownMode
from ._future import Future
from ._start import fork_server, standard_streams
from ._worker_info import WorkerInfo

TYPE_CHECKING = False
if TYPE_CHECKING:
    from multiprocessing.context import BaseContext
    from typing import Any, Literal, ParamSpec, Protocol, TypeVar, overload

    from typing_extensions import TypeVarTuple, Unpack

    P = ParamSpec("P")
    T = TypeVar("T")
    Initargs = TypeVarTuple("Initargs")
    Finalargs = TypeVarTuple("Finalargs")
    Args = TypeVarTuple("Args")

    class Serializer(Protocol):
        """What pickles calls and results, such as the modules pickle and cloudpickle."""

        @property
        def dumps(self) -> Callable[[Any], Any]:
            """Pickles an object, to something with the interface of buffers."""

        @property
        def loads(self) -> Callable[[bytes], Any]:
            """Unpickles an object."""

    from . import _asubmit


class Deadpool(_legacy.Attributes, _core.PoolBase, concurrent.futures.Executor):
    """A process pool that is really hard to kill.

    Everything that works with :class:`concurrent.futures.ProcessPoolExecutor` works here. All
    workers are started at once; the constructor does not wait for them.

    :param max_workers: The most tasks that run at the same time. By default as many as this process
        may use CPUs, by its affinity and the quota of its cgroup.
    :param min_workers: How many workers an idle pool keeps; 0 keeps none. By default ``max_workers``.
    :param max_tasks_per_child: After how many tasks a worker is replaced. None means never.
    :param max_worker_memory_bytes: A worker whose resident memory is at least this after a task is
        replaced.
    :param mp_context: A multiprocessing context, or the name of a start method; ``"forkserver"`` by
        default.
    :param initializer: Called with ``initargs`` in each worker before its first task.
    :param initargs: Arguments of ``initializer``.
    :param finalizer: Called with ``finalargs`` in each worker before it goes, but not before it is
        killed.
    :param finalargs: Arguments of ``finalizer``.
    :param max_backlog: How many tasks may wait for a worker before :meth:`submit` blocks. 0 or None
        means any number.
    :param shutdown_wait: ``wait`` of the :meth:`shutdown` at the end of a ``with`` block.
    :param shutdown_cancel_futures: ``cancel_futures`` of the same.
    :param daemon: Whether workers are daemonic processes, which may have no multiprocessing children,
        and so no pools of their own.
    :param malloc_trim_rss_memory_threshold_bytes: A worker whose resident memory is over this after a
        task gives unused heap memory back to the system.
    :param propagate_environ: Environment variables for the workers, as they are when a worker is
        created or, if it has run nothing yet, when a task is submitted.
    :param on_initializer_error: ``"log"`` goes on with a worker whose initializer raised; ``"fail"``
        lets the worker go and fails the task that waits with a :class:`ProcessError`.
    :param kill_on_cancel: Whether cancelling a running task kills it.
    :param kill_grace_period: Seconds for exit handlers before a kill; a worker that goes in peace has
        ten times as long for its finalizer and exit handlers.
    :param worker_idle_timeout: Seconds after which an idle worker above ``min_workers`` goes.
    :param worker_start_timeout: Seconds that a worker may take to start, its initializer included.
    :param serializer: What pickles calls and results: anything with ``dumps`` and ``loads``.
    :param on_worker_up: Called with the process id of each worker that was started, by the thread
        that calls done-callbacks.
    :param on_worker_down: Called with process id and exit code, None if nobody could tell it, of
        each that is gone.
    :raises ValueError: If a number is out of range, or there is no such start method.
    :raises TypeError: If an argument is of another type.
    :raises OSError: If the system refuses descriptors or threads.
    """

    __module__ = "deadpool"

    def __init__(
        self,
        max_workers: int | None = None,
        min_workers: int | None = None,
        max_tasks_per_child: int | None = None,
        max_worker_memory_bytes: int | None = None,
        mp_context: BaseContext | str | None = None,
        initializer: Callable[[Unpack[Initargs]], object] | None = None,
        initargs: tuple[Unpack[Initargs]] = (),  # type: ignore[assignment]  # None without one.
        finalizer: Callable[[Unpack[Finalargs]], object] | None = None,
        finalargs: tuple[Unpack[Finalargs]] = (),  # type: ignore[assignment]  # None without one.
        max_backlog: int | None = 1000,
        shutdown_wait: bool | None = None,
        shutdown_cancel_futures: bool | None = None,
        daemon: bool = True,
        malloc_trim_rss_memory_threshold_bytes: int | None = None,
        propagate_environ: Mapping[str, str] | None = None,
        *,
        on_initializer_error: Literal["log", "fail"] = "log",
        kill_on_cancel: bool = False,
        kill_grace_period: float = 1.0,
        worker_idle_timeout: float = 0.2,
        worker_start_timeout: float = 300.0,
        serializer: Serializer = pickle,
        on_worker_up: Callable[[int], object] | None = None,
        on_worker_down: Callable[[int, int | None], object] | None = None,
        _bell: int | None = None,
        _watches_starts: bool = False,
        _holds_back: bool = False,
    ) -> None:
        # Private arguments, for the pools of this package. `_bell`: an eventfd, if an event loop settles
        # the futures by `_settle_ready`, whenever it is rung. `_watches_starts`: each future is told of
        # its task's start without asking. `_holds_back`: tasks wait for `_hand_over`.
        max_workers = _check_max_workers(max_workers)
        self._max_workers = max_workers
        self._min_workers = check_whole("min_workers", min_workers, 0)
        check_whole("max_tasks_per_child", max_tasks_per_child, 1)
        check_whole("max_worker_memory_bytes", max_worker_memory_bytes, 1)
        threshold = malloc_trim_rss_memory_threshold_bytes
        check_whole("malloc_trim_rss_memory_threshold_bytes", threshold, 0)
        check_whole("max_backlog", max_backlog, 0)
        check_callable("initializer", initializer)
        check_callable("finalizer", finalizer)
        check_callable("on_worker_up", on_worker_up)
        check_callable("on_worker_down", on_worker_down)
        check_seconds("kill_grace_period", kill_grace_period)
        check_seconds("worker_idle_timeout", worker_idle_timeout)
        check_seconds("worker_start_timeout", worker_start_timeout)
        if on_initializer_error not in ("log", "fail"):
            raise ValueError(
                f"on_initializer_error must be 'log' or 'fail', not {on_initializer_error!r}"
            )
        _check_not_daemonic()
        standard_streams.occupy()
        if mp_context is None or mp_context == "forkserver":
            fork_server.server.start_early()
        # Not before: the server starts while these are imported.
        from . import _environ
        from ._child import worker as child_worker
        from ._start import threads
        from ._start.method import start_method

        method = start_method(mp_context)
        if method.name != "fork":
            check_importable(initializer, finalizer)
        functions = None
        if serializer is not pickle and serializer is not None:
            functions = child_worker.Functions(
                dumps=getattr(serializer, "dumps", None),
                loads=getattr(serializer, "loads", None),
            )
        self._environ = _environ.Propagated(propagate_environ)
        self._shutdown_options = {
            name: value
            for name, value in (
                ("wait", shutdown_wait),
                ("cancel_futures", shutdown_cancel_futures),
            )
            if value is not None
        }
        spec = child_worker.Spec(
            initializer=initializer,
            initargs=check_arguments("initargs", initargs),
            finalizer=finalizer,
            finalargs=check_arguments("finalargs", finalargs),
            daemon=bool(daemon),
            serializer=functions,
            max_worker_memory_bytes=max_worker_memory_bytes,
            trim_threshold_bytes=threshold,
            propagates_environ=propagate_environ is not None,
            fails_on_initializer_error=on_initializer_error == "fail",
        )
        self._threads = threads.Threads(
            spec, self._environ, method, max_workers, on_worker_up, on_worker_down
        )
        completer, launcher, environ = self._open(
            future_class=Future,
            max_workers=max_workers,
            min_workers=max_workers if self._min_workers is None else self._min_workers,
            max_tasks_per_child=max_tasks_per_child,
            max_backlog=max_backlog or None,
            zygote_each=method.zygote_each,
            starts_at_once=method.starts_at_once,
            serializer=serializer,
            kill_on_cancel=bool(kill_on_cancel),
            kill_grace_period=kill_grace_period,
            worker_idle_timeout=worker_idle_timeout,
            worker_start_timeout=worker_start_timeout,
            fail_on_initializer_error=on_initializer_error == "fail",
            propagate=self._environ.look if self._environ.is_wanted else None,
            bell=_bell,
            watches_starts=_watches_starts,
            holds_back=_holds_back,
        )
        try:
            self._environ.send_to(environ)
            self._threads.start(completer, launcher, with_completer=_bell is None)
        except BaseException:
            # Ctrl-C, while the first workers are waited for.
            self._close(ShutdownMode.KILL, False)
            raise
        self._room: _asubmit.RoomForCoroutines | None = None

    if TYPE_CHECKING:

        @overload
        async def asubmit(self, fn: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs) -> T: ...

        @overload
        async def asubmit(
            self,
            fn: Callable[[Unpack[Args]], T],
            /,
            *args: Unpack[Args],
            deadpool_timeout: float | None = None,
            deadpool_priority: int = 0,
            deadpool_soft_timeout: float | None = None,
            deadpool_memory_limit_bytes: int | None = None,
            deadpool_retries: int = 0,
        ) -> T: ...

    async def asubmit(  # type: ignore[misc]  # No implementation can accept what only one overload does.
        self, fn: Callable[..., Any], /, *args: Any, **kwargs: Any
    ) -> Any:
        """Run ``fn(*args, **kwargs)`` in a worker and return its result.

        Waits for room in the backlog and for the result without blocking the event loop. Cancelling
        the coroutine cancels the task, and kills it if the pool was made with ``kill_on_cancel``.

        Takes the same ``deadpool_`` keywords as :meth:`submit`.

        :raises PoolClosed: If the pool is closed, also while waiting for room.
        """
        if self._room is None:
            # Here, since asyncio is much to import for those who don't use it.
            from ._asubmit import RoomForCoroutines

            self._room = RoomForCoroutines(self)
        return await self._room.run(fn, args, kwargs)

    def map(
        self,
        fn: Callable[..., T],
        *iterables: Iterable[Any],
        timeout: float | None = None,
        chunksize: int = 1,
        buffersize: int | None = None,
        deadpool_timeout: float | None = None,
        deadpool_priority: int = 0,
        deadpool_soft_timeout: float | None = None,
        deadpool_memory_limit_bytes: int | None = None,
        deadpool_retries: int = 0,
    ) -> Iterator[T]:
        """Return an iterator over the results of ``fn``, in the order of the arguments.

        Submits as many tasks as the backlog has room for, and one more for each result that is taken. An
        iterator that is dropped before its first result is asked for submits them all, and blocks while
        the backlog is full. A chunk is one task: timeouts, priority, memory limit and retries are the
        chunk's.

        :param timeout: Seconds from this call until a result must have come.
        :param chunksize: How many calls make one task, at least 1.
        :param buffersize: How many tasks may be ahead of the iteration; then this blocks while the
            backlog is full. None submits what there is room for.
        :raises TimeoutError: From the iterator, if a result does not come in time.
        :raises ValueError: If ``chunksize`` or ``buffersize`` is less than 1.
        """
        limits = {
            "deadpool_timeout": deadpool_timeout,
            "deadpool_priority": deadpool_priority,
            "deadpool_soft_timeout": deadpool_soft_timeout,
            "deadpool_memory_limit_bytes": deadpool_memory_limit_bytes,
            "deadpool_retries": deadpool_retries,
        }
        options = {name: value for name, value in limits.items() if value is not None}
        return _map.results(self.submit, fn, iterables, timeout, chunksize, buffersize, options)

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:
        """Close the pool.

        ===== ============== ==================================================================
        wait  cancel_futures effect
        ===== ============== ==================================================================
        True  False          all submitted tasks run, and this returns after the last
        True  True           running tasks are finished, waiting tasks are cancelled; this returns
                             after the last
        False True           running tasks are killed and cancelled, waiting tasks are cancelled
        False False          running tasks are finished in the background, waiting tasks are cancelled
        ===== ============== ==================================================================

        May be called more than once, and from callbacks, where it does not wait. Blocks if ``wait``
        is true until all workers are gone.
        """
        if wait:
            mode = ShutdownMode.CANCEL_WAITING if cancel_futures else ShutdownMode.DRAIN
        else:
            mode = ShutdownMode.CANCEL_ALL if cancel_futures else ShutdownMode.CANCEL_WAITING
        self._shut_down(mode, wait)

    def terminate_workers(self) -> None:
        """Send SIGTERM to busy workers and their trees, cancel all tasks and close the pool.

        Workers that outlive ``kill_grace_period`` are killed; idle ones go in peace. Does not wait
        for them.
        """
        self._shut_down(ShutdownMode.TERMINATE, False)

    def kill_workers(self) -> None:
        """Kill all workers and their trees, cancel all tasks and close the pool. Does not wait."""
        self._shut_down(ShutdownMode.KILL, False)

    def _settle_ready(self) -> None:
        self._threads.complete_ready()

    def _shut_down(self, mode: ShutdownMode, wait: bool) -> None:
        if wait:
            # An event loop that waits for the end does not come to what brings it about.
            self._threads.start_completer()
        is_own = self._threads.is_current()
        self._close(mode, not is_own)
        if wait and not is_own:
            self._threads.join()

    def __exit__(self, *_exception: object) -> None:
        self.shutdown(**self._shutdown_options)

    def get_statistics(self) -> dict[str, int]:
        """Return what the pool has done; also after its end.

        :returns: ``tasks_received``, ``tasks_launched``, ``tasks_failed``,
            ``worker_processes_created``, ``max_workers_busy_concurrently``: counts since the pool was
            made; ``worker_processes_still_alive``, ``worker_processes_idle``,
            ``worker_processes_busy``: the workers as they are.
        """
        return self._counters()

    def workers(self) -> list[WorkerInfo]:
        """Return what each worker is doing, the oldest first."""
        return [WorkerInfo(*row) for row in self._workers()]

    def clear_workers(self) -> None:
        """Replace all workers: idle ones at once, busy ones after the task that they run."""
        if self._environ.is_wanted:
            self._environ.look()
        self._clear_workers()

    def resize(self, max_workers: int) -> None:
        """Change how many tasks may run at the same time.

        Workers that are too many go when they are idle; a running task is never disturbed.

        :param max_workers: The new number, at least 1.
        """
        if max_workers is None:
            raise TypeError("max_workers must be an integer, not None")
        max_workers = _check_max_workers(max_workers)
        self._max_workers = max_workers
        self._resize(max_workers, max_workers if self._min_workers is None else self._min_workers)


def trim_memory() -> None:
    """Give unused heap memory of this process back to the system, where the C library can."""
    from ._child import worker as child_worker

    child_worker.trim_memory()


def _check_max_workers(max_workers: int | None) -> int:
    if max_workers is None:
        return _core.available_cpus()
    number = check_whole("max_workers", max_workers, None)
    assert number is not None
    if number <= 0:
        raise ValueError("max_workers must be greater than 0")
    return number


def _check_not_daemonic() -> None:
    # What runs in a process that multiprocessing has started has imported this.
    module: Any = sys.modules.get("multiprocessing.process")
    if module is not None and module.current_process().daemon:
        raise AssertionError(
            "daemonic processes are not allowed to have children; "
            "make the pool that runs this task with daemon=False"
        )
