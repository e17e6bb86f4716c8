"""Collect CPython's executor tests from the interpreter, and put another executor into them.

Three things are replaced, in this process alone:

* ``executor_type`` of the process pool mixins;
* ``BrokenProcessPool``, by which the standard library reports a dead worker. Deadpool fails the one
  future instead, with ``ProcessError`` where the worker died, and with the error itself where
  unpickling raised one;
* ``from concurrent.futures import NAME`` in the scripts that tests run in a fresh interpreter.
"""

from __future__ import annotations

import faulthandler
import importlib
import pickle
import pkgutil
import signal
import sys
import unittest
from collections.abc import Iterator
from types import FrameType, ModuleType
from typing import Any

from .left_out import LEFT_OUT, VERIFIED

PACKAGE = "test.test_concurrent_futures"
START_METHODS = ("fork", "forkserver", "spawn")
# These hold no test of a process pool by themselves.
SUPPORT_MODULES = {"util", "executor", "test_thread_pool", "test_interpreter_pool", "test_future"}


class MissingTestsError(Exception):
    """The interpreter came without its tests, or the list of left-out tests is out of date."""


def import_modules() -> list[ModuleType]:
    """Import the interpreter's test modules; before 3.12 there was one for everything."""
    try:
        package = importlib.import_module(PACKAGE)
    except ImportError as error:
        raise MissingTestsError(f"this interpreter came without {PACKAGE}: {error}") from error
    if not hasattr(package, "__path__"):
        return [package]
    names = [module.name for module in pkgutil.iter_modules(package.__path__)]
    return [
        importlib.import_module(f"{PACKAGE}.{name}")
        for name in names
        if name not in SUPPORT_MODULES
    ]


def replace_executor(modules: list[ModuleType], executor_type: type[Any]) -> None:
    """Make the process pool tests of these modules test another executor."""
    home, name = executor_type.__module__.partition(".")[0], executor_type.__name__
    public = sys.modules[home]
    died: tuple[type[BaseException], ...] = (
        public.ProcessError,
        pickle.UnpicklingError,
        SystemExit,
    )
    for module in modules:
        for value in list(vars(module).values()):
            if is_process_mixin(value):
                value.executor_type = executor_type
        if hasattr(module, "BrokenProcessPool"):
            vars(module)["BrokenProcessPool"] = died
        if hasattr(module, "assert_python_ok"):
            script = f"from concurrent.futures import {name}", f"from {home} import {name}"
            vars(module)["assert_python_ok"] = replacing(module.assert_python_ok, *script)


def is_process_mixin(value: Any) -> bool:
    """Tell whether this is one of the mixins that name the executor to be tested."""
    return (
        isinstance(value, type)
        and value.__name__.startswith("ProcessPool")
        and "executor_type" in vars(value)
    )


def replacing(assert_python_ok: Any, old: str, new: str) -> Any:
    """Wrap the function that runs a script, so that the script finds the executor."""

    def run(*args: str, **env: str) -> Any:
        return assert_python_ok(*(arg.replace(old, new) for arg in args), **env)

    return run


def flatten(suite: unittest.TestSuite) -> Iterator[unittest.TestCase]:
    """Yield the tests of a suite of suites."""
    for test in suite:
        if isinstance(test, unittest.TestSuite):
            yield from flatten(test)
        else:
            yield test


def full_name(test: unittest.TestCase) -> str:
    """Return the class that defines a test, and its name: the key of the left-out list."""
    method = test.id().rpartition(".")[2]
    definer = next(klass for klass in type(test).__mro__ if method in vars(klass))
    return f"{definer.__name__}.{method}"


def is_about_processes(test: unittest.TestCase) -> bool:
    """Tell tests of process pools from those of thread pools."""
    return hasattr(test, "ctx") or type(test).__name__ == "FailingInitializerResourcesTest"


def collect(start_method: str, pattern: str) -> tuple[unittest.TestSuite, list[str]]:
    """Return the tests to run and the names of those left out."""
    loader = unittest.TestLoader()
    chosen, left_out, seen = unittest.TestSuite(), [], set()
    for module in import_modules():
        for test in flatten(loader.loadTestsFromModule(module)):
            if not is_about_processes(test):
                continue
            name = full_name(test)
            seen.add(name)
            if getattr(test, "ctx", None) not in {None, start_method}:
                continue
            if name in LEFT_OUT:
                left_out.append(test.id())
            elif pattern in test.id():
                chosen.addTest(test)
    unknown = set(LEFT_OUT) - seen
    if unknown and sys.version_info[:2] in VERIFIED:
        raise MissingTestsError(f"left out, but not there: {sorted(unknown)}")
    return chosen, left_out


class HangError(BaseException):
    """A test took too long. Not an Exception, so that no test handles it."""


class TimedResult(unittest.TextTestResult):
    """A result that turns a hanging test into an error and goes on with the next.

    The signal comes again while the test's clean-up hangs too. Where even that does not help,
    faulthandler prints where all threads are and ends the run.
    """

    limit_seconds = 60.0

    def startTest(self, test: unittest.TestCase) -> None:
        """Arm both clocks."""
        super().startTest(test)
        signal.signal(signal.SIGALRM, self.interrupt)
        signal.setitimer(signal.ITIMER_REAL, self.limit_seconds, self.limit_seconds / 4)
        faulthandler.dump_traceback_later(self.limit_seconds * 4, exit=True)

    def stopTest(self, test: unittest.TestCase) -> None:
        """Disarm the first; the second goes on for what follows, up to the interpreter's exit."""
        signal.setitimer(signal.ITIMER_REAL, 0)
        super().stopTest(test)

    @staticmethod
    def interrupt(signum: int, frame: FrameType | None) -> None:
        """Raise in the main thread, out of whatever it waits for."""
        raise HangError(f"no end after {TimedResult.limit_seconds:g} s")
