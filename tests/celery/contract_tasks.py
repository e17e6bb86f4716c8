"""What the pool runs where the tests do without Celery's tracer."""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path
from typing import Any

from celery import Task, current_app


def pid() -> int:
    return os.getpid()


def sleep(seconds: float) -> None:
    time.sleep(seconds)


def note_and_wait(begun: Path) -> None:
    """Say that it runs, and wait in steps, so that no signal comes just before a long one."""
    begun.touch()
    while True:
        time.sleep(0.01)


def note_call(_task: str, _id: str, request: dict[str, Any], path: Path) -> None:
    """Add a task's priority to a file, called as a tracer is."""
    with path.open("a") as file:
        file.write(f"{request['delivery_info']['priority']}\n")


def setting(name: str) -> Any:
    return current_app.conf[name]


def task_names() -> list[str]:
    return sorted(current_app.tasks)


class Registered(Task):  # type: ignore[misc]
    """A task that no import gives to an app."""

    name = "contract.registered"

    def run(self) -> None:
        pass


def die() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


class InterruptsOnce:
    """What Ctrl-C does that comes while a result is unpickled."""

    def __reduce__(self) -> tuple[Any, ...]:
        return _interrupt_once, ()


_interrupts = iter([KeyboardInterrupt()])


def _interrupt_once() -> None:
    for interrupt in _interrupts:
        raise interrupt


def interrupting() -> InterruptsOnce:
    return InterruptsOnce()


def raise_it(error: BaseException) -> None:
    raise error


def raise_value_error(_value: Any) -> None:
    raise ValueError("of a callback")


def raise_memory_error(_value: Any) -> None:
    raise MemoryError("of a callback")
