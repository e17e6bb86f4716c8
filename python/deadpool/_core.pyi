"""The native core; private. What users see of it is documented where it is re-exported."""

import concurrent.futures
from collections.abc import Callable, Sequence
from typing import Any, Generic, ParamSpec, TypeVar, final, overload

from typing_extensions import Self, TypeVarTuple, Unpack, disjoint_base

from ._future import Future

__all__ = [
    "SOFT_TIMEOUT_SIGNAL",
    "STACK_SIGNAL",
    "Completer",
    "EnvironSender",
    "FutureBase",
    "Launcher",
    "ParentWatch",
    "PoolBase",
    "RoomBell",
    "ShutdownMode",
    "Worker",
    "__version__",
    "available_cpus",
    "kill_children",
    "malloc_trim",
    "run_zygote",
]

_P = ParamSpec("_P")
_T = TypeVar("_T")
_Ts = TypeVarTuple("_Ts")

__version__: str
STACK_SIGNAL: int
SOFT_TIMEOUT_SIGNAL: int

@disjoint_base
class FutureBase(Generic[_T]):
    """The native part of :class:`deadpool.Future`."""

    @property
    def pid(self) -> int | None:
        """The process that runs or ran the task; None if none did yet."""

    def __init__(self) -> None: ...
    def cancel(self) -> bool:
        """Give up on the result. Return False if the task has ended.

        A running task goes on, and its result is thrown away, unless the pool was made with
        ``kill_on_cancel``. Does not block.
        """

    def cancel_and_kill_if_running(self, sig: int = ...) -> bool:
        """Give up on the result, and send ``sig`` to the task's process tree if it runs.

        A tree that outlives another signal than SIGKILL by the pool's ``kill_grace_period`` is killed.
        Hits this task and no other. Does not block.
        """

    def _has_outcome(self) -> bool:
        """Return whether the task has ended, even if no callback was called for that yet."""

    def cancelled(self) -> bool:
        """Whether the future was cancelled."""

    def running(self) -> bool:
        """Whether the task runs."""

    def done(self) -> bool:
        """Whether the future has finished or was cancelled."""

    def result(self, timeout: float | None = None) -> _T:
        """Return the task's result, or raise its exception. Blocks for at most ``timeout`` seconds.

        :raises concurrent.futures.TimeoutError: If the task has not ended by then.
        :raises CancelledError: If the future was cancelled.
        """

    def exception(self, timeout: float | None = None) -> BaseException | None:
        """Return the task's exception, or None. Blocks for at most `timeout` seconds."""

    def add_done_callback(self, fn: Callable[[Future[_T]], object]) -> None:
        """Call ``fn(future)`` when the future ends, or now if it has.

        Called in the pool's completer thread, where it delays other callbacks and nothing else; in
        the calling thread if the future has ended, or is cancelled by it.
        """

    def add_pid_callback(self, fn: Callable[[Future[_T]], object]) -> None:
        """Call ``fn(future)`` when the task starts, or now if it has; its ``pid`` is known then.

        Once: where a task is run again after its worker died, ``pid`` changes and nothing is called.
        """

    def add_soft_timeout_callback(self, fn: Callable[[Future[_T]], object]) -> None:
        """Call ``fn(future)`` when the task's soft timeout has passed, or now if it has.

        Called when :class:`SoftTimeoutError` is about to be raised in the task, by the thread that
        calls done-callbacks. What it raises is logged.
        """

    def set_running_or_notify_cancel(self) -> bool:
        """Mark the future as running, or tell the waiters that it was cancelled."""

    def set_result(self, result: _T) -> None:
        """End the future with a result."""

    def set_exception(self, exception: BaseException | None) -> None:
        """End the future with an exception."""

@final
class Completer:
    """Settles the futures of one pool."""

    def run(
        self,
        on_up: Callable[[int], object] | None = None,
        on_down: Callable[[int, int | None], object] | None = None,
    ) -> None:
        """Settle futures until the pool has terminated, and tell of its worker processes. Blocks."""

    def run_ready(
        self,
        on_up: Callable[[int], object] | None = None,
        on_down: Callable[[int, int | None], object] | None = None,
    ) -> None:
        """Settle the futures whose tasks have ended, where no thread does it.

        Does not block. To be called by the thread of an event loop, whenever the bell has rung. What
        callbacks raise that is no ``Exception`` is raised in the end, the first of it.
        """

    def has_ended(self) -> bool:
        """Return whether nothing is left to be settled, and nothing will be."""

@final
class Launcher:
    """Knows which zygotes of one pool are wanted."""

    def next(self) -> tuple[int, int | None] | None:
        """Wait for the next job. Blocks."""

    def launched(self, zygote: int, pid: int) -> None:
        """Say that a zygote was started."""

    def failed(self, zygote: int, reason: str) -> None:
        """Say that a zygote could not be started."""

    def descriptors(self) -> list[int]:
        """Return the descriptors of the supervisor, which a forked child has copies of and must close."""

    def environ_looked_at(self) -> None:
        """Say that the environment of workers was looked at, and sent if it had changed."""

    def close(self) -> None:
        """Let the pool finish what was submitted, and end."""

@final
class EnvironSender:
    """Sends the environment of workers to the supervisor, the latest last."""

    def send(self, ticket: int, environ: dict[str, str], pickled: bytes | None = None) -> bool:
        """Send what was seen with this ticket; return whether ``pickled`` is wanted for that and missing.

        Does not block, and runs no Python code.
        """

@final
class ShutdownMode:
    """How a pool is ended."""

    DRAIN: ShutdownMode
    CANCEL_WAITING: ShutdownMode
    TERMINATE: ShutdownMode
    CANCEL_ALL: ShutdownMode
    KILL: ShutdownMode

@final
class RoomBell:
    """Tells an event loop of room in the backlog."""

    def fileno(self) -> int:
        """Return the descriptor, which is readable once there may be room."""

    def take_free_slots(self) -> int:
        """How many tasks could come in now; a pool that is closed has room to say so to all."""

@disjoint_base
class PoolBase:
    """The native base of :class:`deadpool.Deadpool`."""

    def __new__(cls, *_args: Any, **_kwargs: Any) -> Self: ...
    # Keyword arguments of the function and of the pool can't be told apart in one call: either all are
    # the function's, or all are the pool's. A functools.partial takes the former where both are wanted.
    @overload
    def submit(self, fn: Callable[_P, _T], /, *args: _P.args, **kwargs: _P.kwargs) -> Future[_T]:
        """Schedule ``fn(*args, **kwargs)`` to run in a worker, and return its :class:`Future`.

        The call is pickled here, so later changes of its arguments are not seen; an error in pickling
        arrives on the future. Blocks while the backlog is full, unless ``deadpool_block`` is false. May
        be called from any thread, and from signal handlers.

        :param deadpool_timeout: Seconds from the start of the task until its worker is killed; 0 fails
            the task at once, None means never.
        :param deadpool_priority: 0 is the highest; first in, first out within one.
        :param deadpool_soft_timeout: Seconds from the start until :class:`SoftTimeoutError` is raised in
            the task.
        :param deadpool_memory_limit_bytes: Memory of the worker's process tree over which it is killed.
        :param deadpool_retries: How many more times the task may run after its worker died.
        :param deadpool_block: Whether to wait for room in the backlog.
        :raises PoolClosed: If the pool is closed, also while waiting for room.
        :raises BacklogFull: If there is no room and ``deadpool_block`` is false.
        :raises TypeError: If ``fn`` is not callable, a limit is of another type, or a ``deadpool_``
            keyword is unknown.
        :raises ValueError: If a limit is out of range.
        """

    @overload
    def submit(
        self,
        fn: Callable[[Unpack[_Ts]], _T],
        /,
        *args: Unpack[_Ts],
        deadpool_timeout: float | None = None,
        deadpool_priority: int = 0,
        deadpool_soft_timeout: float | None = None,
        deadpool_memory_limit_bytes: int | None = None,
        deadpool_retries: int = 0,
        deadpool_block: bool = True,
    ) -> Future[_T]: ...
    def _open(
        self,
        *,
        future_class: type[concurrent.futures.Future[Any]],
        max_workers: int,
        min_workers: int,
        max_tasks_per_child: int | None,
        max_backlog: int | None,
        zygote_each: bool,
        starts_at_once: int,
        serializer: Any,
        kill_on_cancel: bool,
        kill_grace_period: float,
        worker_idle_timeout: float,
        worker_start_timeout: float,
        fail_on_initializer_error: bool,
        propagate: Callable[[], object] | None,
        bell: int | None,
        watches_starts: bool,
        holds_back: bool,
    ) -> tuple[Completer, Launcher, EnvironSender]:
        """Start the supervisor; returns what the completer and the launcher run."""

    def _hand_over(self) -> None:
        """Run the tasks that were submitted, where that waits for this. Does not block."""

    def _cancel_held(self) -> None:
        """Cancel the tasks that wait for ``_hand_over``.

        Waits for the supervisor's turn, and for no other thread that takes the GIL.
        """

    def _close(self, mode: ShutdownMode, wait: bool) -> None:
        """Refuse further tasks, and tell the supervisor how the pool is to end.

        Blocks until the futures that this cancels have ended, if ``wait`` is true.
        """

    def _clear_workers(self) -> None: ...
    def _resize(self, max_workers: int, min_workers: int) -> None: ...
    def _waiting(self) -> int:
        """How many tasks wait for a worker."""

    def _room_bell(self) -> RoomBell:
        """Something that tells of room in the backlog through a descriptor."""

    def _reset_counters(self) -> None: ...
    def _running(self) -> list[FutureBase[Any]]:
        """Return the futures of the tasks that run."""

    def _counters(self) -> dict[str, int]: ...
    def _workers(
        self,
    ) -> list[tuple[int | None, str, str | None, float | None, int, int | None]]:
        """Tuples of pid, state, name of the task, seconds that it runs, tasks done, resident bytes."""

@final
class ParentWatch:
    """Ends this process with its parent, until it is told to stop."""

    def __new__(cls, parent: int) -> ParentWatch: ...
    def stop(self) -> None:
        """Watch no more. Waits for the thread that does."""

@final
class Worker:
    """A worker's process."""

    def __new__(
        cls,
        fds: Sequence[int],
        serializer: Any,
        max_memory_bytes: int | None,
        trim_threshold_bytes: int | None,
    ) -> Worker: ...
    def stack_fd(self) -> int:
        """Where `faulthandler` is to write."""

    def set_exit_handlers(self, count: int) -> None:
        """How many exit handlers user code has registered."""

    def take_interrupt(self) -> bool:
        """Whether the soft timeout of the task that runs now is to be raised; for a signal handler.

        True once for each task: its signal is sent again where it may not have been seen.
        """

    def receive_environ(self, apply: Callable[[bytes], object]) -> None:
        """Wait for the environment and apply it with `apply(pickled)`. Blocks."""

    def initializer_failed(self, error: BaseException) -> None:
        """Say that the initializer raised."""

    def run(self, apply: Callable[[bytes], object]) -> None:
        """Run tasks until the supervisor wants no more. Blocks."""

def run_zygote(control: int, fork: Callable[[int, list[int], list[int]], int]) -> None:
    """Run a zygote until the parent is gone or wants it to end. Blocks."""

def kill_children(spared: Sequence[int]) -> None:
    """Kill what is below this process, but for the children `spared`."""

def malloc_trim() -> bool:
    """Give unused heap memory back to the system; return whether the C library can."""

def available_cpus() -> int:
    """Return how many CPUs this process may use."""
