"""A Celery project: some tasks that behave, and some that don't.

Its broker and its results are files in the directory that the environment names.
"""

from __future__ import annotations

import os
import re
import signal
import time
from pathlib import Path

from celery import Celery
from celery.exceptions import SoftTimeLimitExceeded

HERE = Path(os.environ["DEADPOOL_EXAMPLE"])

app = Celery("proj", backend="files:Backend+" + (HERE / "results").as_uri())
app.conf.update(
    broker_transport="files:Transport",
    worker_pool="deadpool.celery:TaskPool",
    worker_concurrency=2,
    broker_transport_options={
        "data_folder_in": str(HERE / "queue"),
        "data_folder_out": str(HERE / "queue"),
        "control_folder": str(HERE / "control"),
    },
)


@app.task
def add(x, y):
    """Return a sum."""
    return x + y


@app.task(soft_time_limit=0.5)
def work_until_told():
    """Return how far one gets in half a second."""
    steps = 0
    try:
        while True:
            time.sleep(0.01)
            steps += 1
    except SoftTimeLimitExceeded:
        return steps


@app.task(time_limit=2)
def hold_the_lock():
    """Be stuck in C code that holds the interpreter's lock."""
    re.match(r"(a+)+$", "a" * 40 + "b")


@app.task
def die():
    """Die as of the kernel's want of memory."""
    os.kill(os.getpid(), signal.SIGKILL)


@app.task(deadpool_task_memory_limit_bytes=200_000_000)
def hog():
    """Take more memory than is allowed."""
    kept = bytearray(b"x") * 400_000_000
    time.sleep(30)
    return len(kept)


@app.task(acks_late=True, reject_on_worker_lost=True)
def die_once(path):
    """Die at the first attempt, and be well at the second."""
    try:
        Path(path).touch(exist_ok=False)
    except FileExistsError:
        return "well, this time"
    return os.kill(os.getpid(), signal.SIGKILL)
