"""What ``celery inspect stats`` shows of the pool; all of it can be written as JSON."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from .._worker_info import WorkerInfo
from .settings import Settings


def writes(workers: Sequence[WorkerInfo], statistics: Mapping[str, int]) -> dict[str, Any]:
    """Return how tasks are spread over workers, with the names that the prefork pool has for it."""
    done = [worker.tasks_done for worker in workers]
    total = sum(done)
    shares = [count / total if total else 0.0 for count in done]
    average = sum(shares) / len(shares) if shares else 0.0
    return {
        "total": statistics.get("tasks_launched", 0),
        "avg": f"{average:.2f}",
        "all": ", ".join(f"{share:.2f}" for share in shares),
        "raw": ", ".join(map(str, done)),
        "strategy": "fair",
        "inqueues": {
            "total": len(workers),
            "active": sum(worker.state == "busy" for worker in workers),
        },
    }


def details(
    workers: Sequence[WorkerInfo], statistics: Mapping[str, int], settings: Settings
) -> dict[str, Any]:
    """Return what this pool knows beyond that."""
    return {
        "start-method": settings.start_method,
        "task-memory-limit-bytes": settings.task_memory_limit_bytes,
        "max-worker-memory-bytes": settings.max_worker_memory_bytes,
        "statistics": dict(statistics),
        "workers": [
            {
                "pid": worker.pid,
                "state": worker.state,
                "task": worker.task,
                "running-seconds": worker.running_seconds,
                "tasks-done": worker.tasks_done,
                "rss-bytes": worker.rss_bytes,
            }
            for worker in workers
        ],
    }
