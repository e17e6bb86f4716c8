"""What Celery stores and logs of a task's end shows where the task was, and nothing of the pool's inside."""

from __future__ import annotations

import os
import re
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from brokers import filesystem
from processes import eventually
from workers import Worker, failure

import deadpool

PACKAGE = Path(deadpool.__file__).parent
FRAME = re.compile(r'File "([^"\n]+)", line \d+,? in (<?\w+>?)')

# Prefork shows such a frame as well: that of the signal's handler, which raises in the task.
HANDLERS = {"_raise_soft_timeout", "_raise_in_task"}


@pytest.fixture(scope="module")
def worker(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Worker]:
    """A worker with one process and the broker of files."""
    directory = tmp_path_factory.mktemp("errors")
    started = Worker(filesystem(directory / "broker"), directory / "worker", ("-c", "1"))
    try:
        yield started.start()
        assert started.stop() == 0
    finally:
        started.kill()


@pytest.mark.parametrize(
    ("task", "args", "options", "innermost"),
    [
        ("fail", ("why",), {}, "fail"),
        ("raise_unpicklable", (), {}, "raise_unpicklable"),
        ("sleep", (60,), {"soft_time_limit": 1}, "wait_in_steps"),
    ],
)
def test_the_traceback_of_a_task_that_raises(
    worker: Worker, task: str, args: tuple[Any, ...], options: dict[str, Any], innermost: str
) -> None:
    begin = len(worker.log())
    result = worker.client.send(task, *args, **options)
    failure(result)
    worker.await_log(f"project.{task}[{result.id}] raised")
    for text in (result.traceback, worker.log()[begin:]):
        assert innermost in functions(text)
        assert own_functions(text) <= HANDLERS


def test_the_traceback_of_a_soft_limit_by_a_signal(worker: Worker) -> None:
    begin, begun = len(worker.log()), uuid.uuid4().hex
    result = worker.client.send("sleep", 60, begun)
    (pid,) = worker.await_lines(begun)
    os.kill(int(pid), 10)
    failure(result)
    worker.await_log(f"project.sleep[{result.id}] raised")
    for text in (result.traceback, worker.log()[begin:]):
        assert "wait_in_steps" in functions(text)
        assert own_functions(text) <= HANDLERS


@pytest.mark.parametrize(
    ("task", "args", "options", "innermost"),
    [
        ("sleep", (60,), {"time_limit": 1}, "wait_in_steps"),
        ("hold_the_gil", (), {"time_limit": 1}, "hold_the_gil"),
        ("crash", (), {}, "crash"),
        ("hog_with_limit", (300,), {}, "hog_with_limit"),
    ],
)
def test_the_stack_of_a_task_that_is_killed(
    worker: Worker, task: str, args: tuple[Any, ...], options: dict[str, Any], innermost: str
) -> None:
    begin = len(worker.log())
    result = worker.client.send(task, *args, **options)
    error = failure(result)
    eventually(lambda: innermost in functions(worker.log()[begin:]))
    # The text of a worker's death, or what stands beside the limit in seconds.
    message = str(error.args[-1])
    assert innermost in functions(message)
    # Of Celery's tracer, which runs the task, nothing is cut off.
    assert functions(message)[-1] == "fast_trace_task"
    assert own_functions(message) == set()
    if "time_limit" in options:
        # Result objects keep what they have read first, when the traceback may not have been there.
        read = worker.client.app.AsyncResult
        eventually(lambda: innermost in functions(read(result.id).traceback or ""))
        assert own_functions(read(result.id).traceback) == set()
    # The parent has raised the exception once, so that Celery's logger has something to show.
    assert own_functions(worker.log()[begin:]) == {"exception_info"}


def functions(text: str) -> list[str]:
    """Return the names of the functions whose frames a text shows."""
    return [function for _, function in FRAME.findall(text)]


def own_functions(text: str) -> set[str]:
    """Return the names of the package's functions whose frames a text shows."""
    return {name for path, name in FRAME.findall(text) if PACKAGE in Path(path).parents}
