"""The worker processes of a :class:`deadpool.celery.TaskPool`."""

from __future__ import annotations

import os
from typing import Any

from .._core import ShutdownMode
from .._executor import Deadpool
from . import worker as celery_worker
from .settings import Settings


class Executors:
    """An executor, and those before it that still have tasks to finish.

    :param app: The app whose tasks are run.
    :param initargs: The app and the host's name, as Celery has them.
    :param size: How many processes; 0 is possible, until the first task.
    :param settings: What they are made with.
    :param bell: What :meth:`settle` is to be called after; None if threads do its work.
    :raises celery.exceptions.ImproperlyConfigured: If the app can't be taken to them.
    """

    def __init__(
        self, app: Any, initargs: Any, size: int, settings: Settings, bell: int | None
    ) -> None:
        self.size = size
        self._settings = settings
        self._bell = bell
        self._exits = 0
        app, hostname = initargs or (app, None)
        self._luggage = celery_worker.Luggage.packed(app, hostname, settings)
        self._former: list[Deadpool] = []
        if settings.start_method != "fork":
            # Celery wants to see it in new interpreters before the program's modules are imported.
            os.environ[celery_worker.FRESH_INTERPRETER] = "1"
        try:
            self.executor = self._make()
        except BaseException:
            self._forget()
            raise

    def _make(self) -> Deadpool:
        settings = self._settings
        return Deadpool(
            max(self.size, 1),
            max_tasks_per_child=settings.max_tasks_per_child,
            max_worker_memory_bytes=settings.max_worker_memory_bytes,
            mp_context=settings.start_method,
            initializer=celery_worker.start,
            initargs=(self._luggage,),
            finalizer=celery_worker.finish,
            # The event loop must never wait for room.
            max_backlog=None,
            # So tasks may have processes of their own; they are killed with them.
            daemon=False,
            malloc_trim_rss_memory_threshold_bytes=settings.trim_memory_threshold_bytes,
            on_initializer_error="fail",
            kill_grace_period=settings.kill_grace_period,
            worker_start_timeout=settings.worker_start_timeout,
            on_worker_down=self._down,
            _bell=self._bell,
            _watches_starts=True,
            # The loop says when tasks are handed over.
            _holds_back=self._bell is not None,
        )

    def _down(self, _pid: int, _exitcode: int | None) -> None:
        self._exits += 1

    def settle(self) -> None:
        """Settle the futures of tasks that have ended, in the thread of the event loop. Does not block."""
        for executor in [*self._former, self.executor]:
            executor._settle_ready()

    def hand_over(self) -> None:
        """Give the tasks that were submitted to workers, where there is an event loop. Does not block."""
        self.executor._hand_over()

    def cancel_held(self) -> None:
        """Cancel the tasks that were not handed over. Waits for the turn of a supervisor, at most."""
        for executor in [*self._former, self.executor]:
            executor._cancel_held()

    def take_exits(self) -> int:
        """Return how many processes have exited since this was called last."""
        if self._bell is not None:
            self.settle()
        exits, self._exits = self._exits, 0
        return exits

    def pids(self) -> set[int]:
        """Return the processes that there are."""
        executors = [self.executor, *self._former]
        workers = [worker for executor in executors for worker in executor.workers()]
        return {worker.pid for worker in workers if worker.pid is not None}

    def resize(self, size: int) -> None:
        """Have so many processes. Those too many go when they are idle."""
        self.size = size
        self.executor.resize(max(size, 1))

    def restart(self) -> None:
        """Start all processes anew, from a new interpreter. Tasks that run or wait are finished."""
        former, self.executor = self.executor, self._make()
        # Not by clear_workers(): their successors would have the code that was imported before.
        former._close(ShutdownMode.DRAIN, False)
        # One without workers may still have tasks that wait for some, or whose ends nobody was told.
        going = [other for other in self._former if not other._threads.has_ended()]
        self._former = [*going, former]

    def cancel_waiting(self) -> None:
        """Let no task begin that has not begun; the others go on. Does not block."""
        self.cancel_held()
        for executor in [*self._former, self.executor]:
            executor.shutdown(wait=False)

    def stop(self) -> None:
        """Wait until all tasks are finished and all processes gone. Blocks."""
        for executor in [*self._former, self.executor]:
            executor.shutdown(wait=True)
        self._forget()

    def kill(self) -> None:
        """Kill all processes and what they started, and wait until they are gone. Blocks."""
        executors = [*self._former, self.executor]
        for executor in executors:
            executor.kill_workers()
        for executor in executors:
            executor.shutdown(wait=True)
        self._forget()

    def _forget(self) -> None:
        self._luggage.close()
        os.environ.pop(celery_worker.FRESH_INTERPRETER, None)
