"""A Celery worker pool on Deadpool.

Select it in the configuration of an app: ``worker_pool = "deadpool.celery:TaskPool"``. Tasks, results,
remote control and signals are as with the prefork pool; limits hold whatever a task does, a worker's
death is known at once, and what is killed takes all its processes along.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from celery.utils.log import get_logger
from celery.worker import state as worker_state
from kombu.asynchronous import get_event_loop

from ._celery import priority, report
from ._celery import signals as celery_signals
from ._celery import worker as celery_worker
from ._celery.callbacks import HubCalls, ThreadCalls
from ._celery.executors import Executors
from ._celery.jobs import Callbacks, Job
from ._celery.settings import Settings, read_settings
from ._celery.shutdown import Uninterrupted, cancel, wait_in_hub, wait_in_thread
from ._celery.slots import HubSlots, ThreadSlots

__all__ = ["TaskPool"]

_logger = get_logger(__name__)

if TYPE_CHECKING:

    class BasePool:
        """What is used of Celery's class, which has no types."""

        RUN: int
        CLOSE: int
        TERMINATE: int
        app: Any
        options: dict[str, Any]
        limit: int

        def __init__(self, *args: Any, **options: Any) -> None: ...
        def _get_info(self) -> dict[str, Any]: ...
        def __getattr__(self, name: str) -> Any: ...

else:
    from celery.concurrency.base import BasePool


class TaskPool(BasePool):
    """The pool that ``celery worker`` runs its tasks in; made by Celery, and not by users.

    Its settings are those of the app's configuration: Celery's own for the prefork pool, and those
    that begin with ``deadpool_``.

    :param limit: How many worker processes; 0 is possible with autoscaling.
    :param putlocks: Whether to hold back submissions while all workers are busy, where there is no
        event loop.
    :param forking_enable: False if ``worker_pool_start_method`` is ``"spawn"``.
    :param callbacks_propagate: Exceptions of callbacks that are not caught.
    :param app: The app.
    :param options: What else Celery passes: ``initargs``, ``threads``, ``semaphore``, ``timeout``,
        ``soft_timeout`` (seconds), ``maxtasksperchild``, ``max_memory_per_child`` (KiB).
    :raises celery.exceptions.ImproperlyConfigured: If a setting is wrong; the message says which.
    """

    uses_semaphore = True
    limit: int

    def __init__(
        self,
        limit: int | None = None,
        putlocks: bool = True,
        forking_enable: bool = True,
        callbacks_propagate: Sequence[type[BaseException]] = (),
        app: Any = None,
        **options: Any,
    ) -> None:
        super().__init__(limit, putlocks, forking_enable, callbacks_propagate, app, **options)
        self._settings: Settings = read_settings(app, forking_enable, options)
        self._timeout = options.get("timeout") or None
        self._soft_timeout = options.get("soft_timeout") or None
        self._in_thread = bool(options.get("threads", True))
        self._priority = priority.from_transport(app)
        self._jobs: set[Job] = set()
        self._tasks: Mapping[str, Any] = {}
        self._uninterrupted = Uninterrupted()
        self._executors: Executors | None = None
        self._calls: HubCalls | ThreadCalls | None = None
        self._slots: HubSlots | ThreadSlots | None = None

    # The beginning.

    def on_start(self) -> None:
        """Start the worker processes. Does not wait for them."""
        size = self.limit or 0
        self._tasks = self.app.tasks
        calls: HubCalls | ThreadCalls
        if self._in_thread:
            calls = ThreadCalls()
            self._slots = ThreadSlots(size)
        else:
            calls = HubCalls(self._uninterrupted)
            self._slots = HubSlots(self.options.get("semaphore"), self._priority_of_waiting)
        calls.propagated = (MemoryError, *self.callbacks_propagate)
        bell = calls.fileno() if isinstance(calls, HubCalls) else None
        try:
            executors = Executors(
                self.app, self.options.get("initargs"), size, self._settings, bell
            )
        except BaseException:
            calls.close()
            raise
        self._calls = calls
        if isinstance(calls, HubCalls):
            calls.collect = executors.settle
            calls.hand_over_by(executors.hand_over)
        self._executors = executors

    def did_start_ok(self) -> bool:
        """Whether no worker process has exited since this was asked last."""
        return self._executors is not None and self._executors.take_exits() == 0

    def register_with_event_loop(self, loop: Any) -> None:
        """Have callbacks called by the event loop; again after each reconnect, which forgets it."""
        if isinstance(self._calls, HubCalls):
            self._calls.register_with(loop)

    # Tasks.

    def on_apply(
        self,
        target: Callable[..., Any],
        args: Sequence[Any] | None = None,
        kwargs: Mapping[str, Any] | None = None,
        callback: Callable[[Any], object] | None = None,
        error_callback: Callable[[Any], object] | None = None,
        accept_callback: Callable[[int, float], object] | None = None,
        timeout_callback: Callable[..., object] | None = None,
        soft_timeout: float | None = None,
        timeout: float | None = None,
        correlation_id: str | None = None,
        waitforslot: bool | None = None,
        **_options: Any,
    ) -> Job | None:
        """Run a task in a worker process.

        Blocks only where there is no event loop and ``waitforslot`` is true, while all are busy.

        :returns: What ends the task early, by ``terminate(signal)``; None if the pool is closed.
        """
        slots, calls = self._slots, self._calls
        if slots is None or calls is None or self._state != self.RUN:
            return None
        if waitforslot:
            slots.acquire()
        job = Job(
            Callbacks(callback, error_callback, accept_callback, timeout_callback),
            timeout=timeout or self._timeout,
            soft_timeout=soft_timeout or self._soft_timeout,
            correlation_id=correlation_id,
            calls=calls,
            on_end=self._job_ended,
            has_slot=bool(waitforslot) or not self._in_thread,
        )
        with self._uninterrupted:
            submitted = self._submit(job, target, args or (), kwargs or {})
            calls.submitted()
        return submitted

    def _submit(
        self, job: Job, target: Callable[..., Any], args: Sequence[Any], kwargs: Mapping[str, Any]
    ) -> Job | None:
        executors = self._executors
        if executors is None or self._state != self.RUN:
            return None
        name = _task_name(args)
        self._jobs.add(job)
        try:
            future = executors.executor.submit(
                celery_worker.Call.named(name, target),
                *args,
                deadpool_timeout=job.timeout,
                deadpool_soft_timeout=job.soft_timeout,
                deadpool_memory_limit_bytes=self._memory_limit_bytes(name),
                deadpool_priority=self._priority(priority.of_call(args)),
                **kwargs,
            )
        except (TypeError, ValueError) as error:
            # Whoever sends a message may write any limit into it, and would end the worker with one.
            job.refuse(error)
            return job
        except BaseException:
            self._job_ended(job)
            raise
        job.watch(future)
        return job

    def _priority_of_waiting(self, args: Sequence[Any]) -> int:
        return self._priority(priority.of_waiting(args))

    def _memory_limit_bytes(self, name: str | None) -> int | None:
        task = None if name is None else self._tasks.get(name)
        own: int | None = getattr(task, "deadpool_task_memory_limit_bytes", None)
        return self._settings.task_memory_limit_bytes if own is None else own

    def _job_ended(self, job: Job) -> None:
        """Forget a job, and let the next one come in its place."""
        self._jobs.discard(job)
        if job.has_slot and self._slots is not None:
            job.has_slot = False
            self._slots.release()

    def terminate_job(self, pid: int, signal: int | None = None) -> None:
        """End the task that a worker process runs; that process and all that it started are killed.

        :param pid: The worker process.
        :param signal: SIGTERM by default. SIGUSR1 raises ``SoftTimeLimitExceeded`` in the task
            instead, as with the prefork pool.
        """
        number = celery_signals.number(signal)
        if number == celery_signals.SOFT_LIMIT:
            self._signal(pid, number)
            return
        if self._executors is not None:
            # One that has ended on the process is not meant.
            self._executors.settle()
        jobs = [job for job in list(self._jobs) if job.pid == pid]
        for job in jobs:
            job.terminate_by_pid(number)
        if not jobs:
            self._signal(pid, number)

    def _signal(self, pid: int, number: int) -> None:
        if self._executors is not None:
            celery_signals.send(pid, number, self._executors.pids)

    def flush(self) -> None:
        """Drop the tasks that have not begun: the broker delivers them again."""
        if self._executors is not None:
            self._executors.cancel_held()
        for job in list(self._jobs):
            if not job.has_begun():
                # Whoever lost the connection has reset the semaphore already.
                job.has_slot = job.has_slot and self._in_thread
                job.discard()

    # The number of workers.

    @property
    def num_processes(self) -> int:
        """How many worker processes there are to be."""
        return 0 if self._executors is None else self._executors.size

    def grow(self, n: int = 1) -> None:
        """Add worker processes."""
        if self._executors is not None and self._slots is not None:
            self._executors.resize(self._executors.size + n)
            self.limit = self._executors.size
            self._slots.grow(n)

    def shrink(self, n: int = 1) -> None:
        """Remove idle worker processes.

        :raises ValueError: If fewer than so many are idle; those that are go all the same.
        """
        if self._executors is None or self._slots is None:
            return
        self._executors.settle()
        busy = sum(job.is_running() for job in list(self._jobs))
        removed = max(min(n, self._executors.size - busy), 0)
        self._executors.resize(self._executors.size - removed)
        self.limit = self._executors.size
        self._slots.shrink(removed)
        if removed < n:
            raise ValueError("Can't shrink pool. All processes busy!")

    def maintain_pool(self, *_args: Any, **_kwargs: Any) -> None:
        """Do nothing: the pool maintains itself."""

    def restart(self) -> None:
        """Replace all worker processes by such that import all code anew; tasks that run go on."""
        with self._uninterrupted:
            if self._executors is not None:
                self._executors.restart()

    # The end.

    def on_close(self) -> None:
        """Take no more tasks, and forget those that wait for a worker. Does not block."""
        if self._slots is not None:
            self._slots.clear()

    def on_stop(self) -> None:
        """Wait for the tasks that are left, then for the end of the worker processes. Blocks."""
        executors, calls = self._executors, self._calls
        if executors is None or calls is None:
            return
        self._state = self.CLOSE
        self.on_close()
        if self._uninterrupted.puts_off(self.on_stop):
            return
        if worker_state.should_terminate not in (None, False):
            # Nothing new may begin; the broker delivers it again.
            executors.cancel_waiting()
            if isinstance(calls, HubCalls):
                # While the loop did not run, as in a soft shutdown, tasks may have ended: they stay as they ended.
                calls.run()
            for job in list(self._jobs):
                calls.post(job.cancel_when_accepted, lambda accepted: cancel(accepted, self))
        hub = get_event_loop()
        if isinstance(calls, HubCalls):
            wait_in_hub(hub, calls, lambda: not self._jobs)
        else:
            wait_in_thread(calls, lambda: not self._jobs)
        self._executors = None
        executors.stop()
        calls.close()

    def on_terminate(self) -> None:
        """Kill the worker processes. Tasks that were running are delivered again if unacknowledged."""
        executors, calls = self._executors, self._calls
        self._executors = None
        if executors is not None:
            executors.cancel_held()
        for job in list(self._jobs):
            job.discard()
        self._jobs.clear()
        if executors is not None:
            executors.kill()
        if calls is not None:
            calls.close()

    # What is told of it.

    def _get_info(self) -> dict[str, Any]:
        info: dict[str, Any] = super()._get_info()
        workers = [] if self._executors is None else self._executors.executor.workers()
        statistics = {} if self._executors is None else self._executors.executor.get_statistics()
        info.update(
            {
                "processes": [worker.pid for worker in workers if worker.pid is not None],
                "max-tasks-per-child": self._settings.max_tasks_per_child or "N/A",
                "put-guarded-by-semaphore": self.putlocks,
                "timeouts": (self._soft_timeout or 0, self._timeout or 0),
                "writes": report.writes(workers, statistics),
                "deadpool": report.details(workers, statistics, self._settings),
            }
        )
        return info


def _task_name(args: Sequence[Any]) -> str | None:
    # Anything may be submitted, but tasks come with their name first.
    return args[0] if args and isinstance(args[0], str) else None
