"""Have Celery's own tests use this pool where they name prefork; for ``pytest -p prefork``.

The name of this module is Celery's condition for collecting the log records of the worker's processes.
"""

from __future__ import annotations

from celery import concurrency

from deadpool.celery import TaskPool as DeadpoolTaskPool


class TaskPool(DeadpoolTaskPool):
    """The pool, of a module with that name."""


concurrency.ALIASES["prefork"] = "prefork:TaskPool"
