"""The project that the workers under test run, with tasks that behave and tasks that don't."""

from __future__ import annotations

import atexit
import contextlib
import json
import logging
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import files  # noqa: F401  # It makes the transport known.
from celery import Celery, Task, signals
from celery.exceptions import Reject, SoftTimeLimitExceeded

CONFIG = "CELERY_TEST_CONFIG"
# Files that tasks and signals of a worker leave behind, for a test to look at.
NOTES = "CELERY_TEST_NOTES"

app = Celery("project", set_as_current=CONFIG in os.environ)
app.conf.update(json.loads(os.environ.get(CONFIG, "{}")))
logger = logging.getLogger("celery.task")


def note(name: str, text: str = "") -> None:
    """Add a line to a file; what is appended at once arrives at once."""
    path = Path(os.environ[NOTES], name)
    with path.open("a") as file:
        file.write(f"{text}\n")


def wait_in_steps(seconds: float) -> None:
    """Wait so that no signal comes just before a long wait, which Python would not see before its end."""
    until = time.monotonic() + seconds
    while (left := until - time.monotonic()) > 0:
        time.sleep(min(left, 0.05))


@signals.worker_ready.connect
def _ready(**_: Any) -> None:
    note("ready")


@signals.worker_process_init.connect
def _process_init(sender: str, **_: Any) -> None:
    note("init", f"{sender} {os.getpid()}")


@signals.worker_process_shutdown.connect
def _process_shutdown(sender: str, pid: int, exitcode: int, **_: Any) -> None:
    note("shutdown", f"{sender} {pid} {exitcode}")


@signals.task_failure.connect
def _task_failure(sender: Any, exception: BaseException, **_: Any) -> None:
    # Sent by the worker process for what the task raises, and else by its parent.
    note("failures", f"{sender.name} {type(exception).__name__}")


@app.task
def nothing() -> None:
    pass


@app.task
def add(x: int, y: int) -> int:
    return x + y


class Doubled(Task):  # type: ignore[misc]
    """A task that is no function."""

    name = "project.doubled"

    def run(self, x: int) -> int:
        return 2 * x


doubled = app.register_task(Doubled())


@app.task
def total(numbers: list[int]) -> int:
    return sum(numbers)


@app.task
def fail(message: str) -> None:
    raise KeyError(message)


@app.task(bind=True, max_retries=3)
def third_time_lucky(self: Any) -> int:
    if self.request.retries < 2:
        # Celery notes the retry when the next try is on its way, and would note it over the success of
        # one that is over by then.
        raise self.retry(countdown=0.5)
    return int(self.request.retries)


@app.task
def pid() -> int:
    return os.getpid()


@app.task
def sleep(seconds: float, begun: str | None = None) -> int:
    if begun is not None:
        note(begun, str(os.getpid()))
    wait_in_steps(seconds)
    return os.getpid()


@app.task(acks_late=True, reject_on_worker_lost=True)
def sleep_late(seconds: float, begun: str, ended: str) -> None:
    note(begun, str(os.getpid()))
    time.sleep(seconds)
    note(ended)


@app.task(acks_late=True)
def hold_late(begun: str, release: str) -> None:
    """Run until a file is there."""
    note(begun, str(os.getpid()))
    while not Path(os.environ[NOTES], release).exists():
        time.sleep(0.01)


@app.task
def sleep_with_family(begun: str) -> None:
    """Sleep, and so do a child, and a grandchild that has gone to another session."""
    orphan = (
        "import subprocess\n"
        "quiet = {'stdout': subprocess.DEVNULL, 'stderr': subprocess.DEVNULL}\n"
        "print(subprocess.Popen(['sleep', '1000'], start_new_session=True, **quiet).pid)"
    )
    output = subprocess.run([sys.executable, "-c", orphan], capture_output=True, check=True)
    with subprocess.Popen(["sleep", "1000"]) as child:
        note(begun, f"{os.getpid()} {child.pid} {int(output.stdout)}")
        time.sleep(1000)


@app.task
def hold_the_gil(begun: str | None = None) -> None:
    if begun is not None:
        note(begun, str(os.getpid()))
    re.match(r"(a+)+$", "a" * 40 + "b")


@app.task
def catch_soft_limit() -> str:
    try:
        time.sleep(1000)
    except SoftTimeLimitExceeded as error:
        return f"caught {error!r}"
    return "not interrupted"


@app.task
def clean_up(begun: str, cleaned: str, seconds: float) -> None:
    """Take some time to end at a soft limit."""
    try:
        note(begun, str(os.getpid()))
        wait_in_steps(1000)
    except SoftTimeLimitExceeded:
        time.sleep(seconds)
        note(cleaned)


@app.task
def ignore_soft_limit() -> None:
    while True:
        with contextlib.suppress(SoftTimeLimitExceeded):
            time.sleep(1000)


@app.task
def kill_itself() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


@app.task
def crash() -> None:
    os.kill(os.getpid(), signal.SIGSEGV)


@app.task(acks_late=True, reject_on_worker_lost=True)
def die_once(name: str) -> str:
    path = Path(os.environ[NOTES], name)
    if not path.exists():
        path.touch()
        os.kill(os.getpid(), signal.SIGKILL)
    return "second time"


@app.task
def exit_task(code: int) -> None:
    sys.exit(code)


@app.task(acks_late=True)
def reject(requeue_once: str | None = None) -> str:
    if requeue_once is not None:
        path = Path(os.environ[NOTES], requeue_once)
        if path.exists():
            return "second time"
        path.touch()
    raise Reject("no", requeue=requeue_once is not None)


class Unpicklable(Exception):
    def __init__(self, one: Any, two: Any) -> None:
        super().__init__(one)
        self.two = two
        self.why = lambda: None


@app.task
def raise_unpicklable() -> None:
    raise Unpicklable(1, lambda: None)


@app.task
def hog(mebibytes: int) -> int:
    kept = bytearray(b"x") * (mebibytes << 20)
    time.sleep(30)
    return len(kept)


@app.task(deadpool_task_memory_limit_bytes=150 << 20)
def hog_with_limit(mebibytes: int) -> int:
    return int(hog(mebibytes))


@app.task
def grow(mebibytes: int) -> int:
    """Leave the process with more memory than before."""
    kept.append(bytearray(b"x") * (mebibytes << 20))
    return os.getpid()


kept: list[bytearray] = []


@app.task
def say(text: str) -> None:
    logger.info("logged: %s", text)
    print(f"printed: {text}")


@app.task
def count(name: str, key: str, seconds: float = 0.0) -> None:
    note(name, key)
    time.sleep(seconds)


@app.task(acks_late=True, reject_on_worker_lost=True)
def count_late(name: str, key: str, seconds: float = 0.0) -> None:
    note(name, key)
    time.sleep(seconds)


@app.task
def has_exit_handler(name: str) -> int:
    atexit.register(note, name, "exit")
    return os.getpid()
