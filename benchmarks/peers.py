"""The pools that are compared, each behind the same few methods.

An adapter adds nothing of its own on the paths that are measured. All use the start method
forkserver, which is what Deadpool uses, except loky, which has its own. What a pool cannot do
is told by ``NotSupportedError`` and shown as n/a.
"""

from __future__ import annotations

import multiprocessing
from collections.abc import Iterable
from typing import Any

START_METHOD = "forkserver"
NO_BACKLOG_LIMIT = 10_000_000


class NotSupportedError(Exception):
    """The pool has no such feature."""


class Executor:
    """Any ``concurrent.futures.Executor``; those that differ override."""

    # Which environment of `run.py` it lives in.
    home = "peers"

    def __init__(self, workers: int, *, tasks_per_child: int | None = None) -> None:
        self.pool = self.make(workers, tasks_per_child)

    def make(self, workers: int, tasks_per_child: int | None) -> Any:
        """Make the pool."""
        raise NotImplementedError

    def submit(self, fn: Any, *args: Any) -> Any:
        """Submit a call and return its future."""
        return self.pool.submit(fn, *args)

    def submit_timed(self, timeout_seconds: float, fn: Any, *args: Any) -> Any:
        """Submit a call that is killed when it takes too long."""
        raise NotSupportedError("timeout")

    def result(self, future: Any, timeout_seconds: float | None = None) -> Any:
        """Wait for a future of this pool."""
        return future.result(timeout_seconds)

    def map(self, fn: Any, items: Iterable[Any], chunksize: int) -> list[Any]:
        """Map and wait for all results."""
        return list(self.pool.map(fn, items, chunksize=chunksize))

    def close(self) -> None:
        """End the pool and wait for it."""
        self.pool.shutdown()


class Deadpool(Executor):
    """This project."""

    home = "ours"

    def make(self, workers: int, tasks_per_child: int | None) -> Any:
        """Make the pool."""
        import deadpool

        return deadpool.Deadpool(
            workers,
            max_tasks_per_child=tasks_per_child,
            mp_context=START_METHOD,
            max_backlog=NO_BACKLOG_LIMIT,
        )

    def submit_timed(self, timeout_seconds: float, fn: Any, *args: Any) -> Any:
        """Submit with a deadline."""
        return self.pool.submit(fn, *args, deadpool_timeout=timeout_seconds)


class PurePython(Deadpool):
    """The pure-Python release of the same name."""

    home = "pure"

    def map(self, fn: Any, items: Iterable[Any], chunksize: int) -> list[Any]:
        """Map; this release has the inherited method, which ignores the chunk size."""
        return list(self.pool.map(fn, items, chunksize=chunksize))


class Stdlib(Executor):
    """``concurrent.futures.ProcessPoolExecutor``."""

    home = "ours"

    def make(self, workers: int, tasks_per_child: int | None) -> Any:
        """Make the pool."""
        import concurrent.futures

        return concurrent.futures.ProcessPoolExecutor(
            workers,
            mp_context=multiprocessing.get_context(START_METHOD),
            **({"max_tasks_per_child": tasks_per_child} if tasks_per_child else {}),
        )


class Loky(Executor):
    """``loky.ProcessPoolExecutor``."""

    def make(self, workers: int, tasks_per_child: int | None) -> Any:
        """Make the pool."""
        import loky

        if tasks_per_child:
            raise NotSupportedError("tasks_per_child")
        return loky.ProcessPoolExecutor(workers, timeout=None)


class Pebble(Executor):
    """``pebble.ProcessPool``."""

    def make(self, workers: int, tasks_per_child: int | None) -> Any:
        """Make the pool."""
        import pebble

        return pebble.ProcessPool(
            workers,
            max_tasks=tasks_per_child or 0,
            context=multiprocessing.get_context(START_METHOD),
        )

    def submit(self, fn: Any, *args: Any) -> Any:
        """Submit without a deadline."""
        return self.pool.schedule(fn, args=args)

    def submit_timed(self, timeout_seconds: float, fn: Any, *args: Any) -> Any:
        """Submit with a deadline."""
        return self.pool.schedule(fn, args=args, timeout=timeout_seconds)

    def map(self, fn: Any, items: Iterable[Any], chunksize: int) -> list[Any]:
        """Map and wait for all results."""
        return list(self.pool.map(fn, items, chunksize=chunksize).result())

    def close(self) -> None:
        """End the pool and wait for it."""
        self.pool.close()
        self.pool.join()


class MultiprocessingPool(Executor):
    """``multiprocessing.Pool``."""

    home = "ours"

    def make(self, workers: int, tasks_per_child: int | None) -> Any:
        """Make the pool."""
        context = multiprocessing.get_context(START_METHOD)
        return context.Pool(workers, maxtasksperchild=tasks_per_child)

    def submit(self, fn: Any, *args: Any) -> Any:
        """Submit and return an asynchronous result."""
        return self.pool.apply_async(fn, args)

    def result(self, future: Any, timeout_seconds: float | None = None) -> Any:
        """Wait for it."""
        return future.get(timeout_seconds)

    def map(self, fn: Any, items: Iterable[Any], chunksize: int) -> list[Any]:
        """Map and wait for all results."""
        return list(self.pool.map(fn, items, chunksize=chunksize))

    def close(self) -> None:
        """End the pool and wait for it."""
        self.pool.close()
        self.pool.join()


class DeadpoolPool(MultiprocessingPool):
    """``deadpool.pool.Pool``: this project behind the interface of ``multiprocessing.Pool``."""

    home = "ours"

    def make(self, workers: int, tasks_per_child: int | None) -> Any:
        """Make the pool."""
        import deadpool.pool

        context = multiprocessing.get_context(START_METHOD)
        return deadpool.pool.Pool(workers, maxtasksperchild=tasks_per_child, context=context)

    def submit_timed(self, timeout_seconds: float, fn: Any, *args: Any) -> Any:
        """Submit with a deadline."""
        return self.pool.apply_async(fn, args, timeout=timeout_seconds)


class Billiard(MultiprocessingPool):
    """``billiard.Pool``, which is what Celery runs on."""

    home = "peers"

    def make(self, workers: int, tasks_per_child: int | None) -> Any:
        """Make the pool."""
        import billiard

        context = billiard.get_context(START_METHOD)
        return context.Pool(workers, maxtasksperchild=tasks_per_child)


class Mpire(MultiprocessingPool):
    """``mpire.WorkerPool``."""

    home = "peers"

    def make(self, workers: int, tasks_per_child: int | None) -> Any:
        """Make the pool; its workers start with the first call."""
        import mpire

        if tasks_per_child:
            raise NotSupportedError("its worker_lifespan is for map alone")
        return mpire.WorkerPool(workers, start_method=START_METHOD, keep_alive=True)

    def submit_timed(self, timeout_seconds: float, fn: Any, *args: Any) -> Any:
        """Submit with a deadline, which this pool enforces from the parent."""
        return self.pool.apply_async(fn, args, task_timeout=timeout_seconds)

    def map(self, fn: Any, items: Iterable[Any], chunksize: int) -> list[Any]:
        """Map and wait for all results."""
        return list(self.pool.map(fn, items, chunk_size=chunksize))

    def close(self) -> None:
        """End the pool and wait for it."""
        self.pool.stop_and_join()


PEERS: dict[str, type[Executor]] = {
    "deadpool": Deadpool,
    "deadpool.pool": DeadpoolPool,
    "pure-python": PurePython,
    "stdlib": Stdlib,
    "mp.Pool": MultiprocessingPool,
    "loky": Loky,
    "pebble": Pebble,
    "billiard": Billiard,
    "mpire": Mpire,
}
OURS = "deadpool"
