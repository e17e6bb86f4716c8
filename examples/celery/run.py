"""Run a Celery worker on Deadpool, with a broker made of files, and see what becomes of its tasks.

Sends tasks that behave and tasks that don't, starts ``celery worker``, prints how each of them ended,
and ends the worker. Needs no server: ``python examples/celery/run.py``.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any


def main() -> int:
    """Run it all, and return 0 if each task ended as it should."""
    with tempfile.TemporaryDirectory() as directory:
        for name in ("queue", "control", "results"):
            Path(directory, name).mkdir()
        os.environ["DEADPOOL_EXAMPLE"] = directory
        # To be root is all right for a worker that reads nothing but files of its own.
        os.environ["C_FORCE_ROOT"] = "1"
        return run(Path(directory))


def run(directory: Path) -> int:
    """Send the tasks, have them run, and print how they ended."""
    import proj

    expected = [
        (proj.add.delay(2, 3), 5),
        (proj.work_until_told.delay(), int),
        (proj.hold_the_lock.delay(), "TimeLimitExceeded"),
        (proj.die.delay(), "WorkerLostError"),
        (proj.hog.delay(), "MemoryLimitError"),
        (proj.die_once.delay(str(directory / "been-here")), "well, this time"),
    ]
    celery = [sys.executable, "-m", "celery", "--quiet", "-A", "proj"]
    command = [*celery, "worker", "--loglevel", "WARNING"]
    with subprocess.Popen(command, cwd=Path(__file__).parent) as worker:
        try:
            wrong = [result for result, end in expected if not show(result, end)]
        finally:
            worker.send_signal(signal.SIGTERM)
            worker.wait(60)
    return 1 if wrong or worker.returncode else 0


def show(result: Any, end: object) -> bool:
    """Print how a task ended; return whether that is how it should."""
    value = result.get(timeout=60, propagate=False)
    if isinstance(value, BaseException):
        name = type(value).__name__
        print(f"{name}: {str(value).splitlines()[0][:150]}")
        if result.traceback and name == "TimeLimitExceeded":
            print(result.traceback)
        return name == end
    print(f"returned {value!r}")
    return value == end or (isinstance(end, type) and isinstance(value, end))


if __name__ == "__main__":
    raise SystemExit(main())
