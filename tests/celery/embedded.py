"""A worker in a thread of a program, as tests of applications have it, with a broker in memory."""

from __future__ import annotations

import celery.contrib.testing.tasks  # noqa: F401  # The task that says that it works.
import project
from celery.contrib.testing.worker import start_worker


def main() -> None:
    with start_worker(project.app, pool="deadpool.celery:TaskPool"):
        print(project.add.delay(1, 2).get(timeout=20))
        print(project.doubled.delay(4).get(timeout=20))


if __name__ == "__main__":
    main()
