"""Run CPython's tests of process pools against an executor, Deadpool unless said otherwise."""

from __future__ import annotations

import argparse
import importlib
import platform
import subprocess
import sys
import tempfile
import unittest
from collections.abc import Sequence

from .harness import (
    START_METHODS,
    MissingTestsError,
    TimedResult,
    collect,
    import_modules,
    replace_executor,
)
from .left_out import LEFT_OUT


def main() -> int:
    """Return the exit code."""
    parser = argparse.ArgumentParser(prog="python -m tests.cpython.executor", description=__doc__)
    parser.add_argument("-k", default="", metavar="TEXT", help="tests whose name has this text")
    parser.add_argument("--start-method", choices=START_METHODS, action="append")
    parser.add_argument("--executor", default="deadpool:Deadpool", metavar="MODULE:CLASS")
    parser.add_argument("--timeout", type=float, default=60.0, help="seconds a test may take")
    parser.add_argument("--list", action="store_true", help="list what is left out, and why")
    options = parser.parse_args()
    if options.list:
        for name, reason in LEFT_OUT.items():
            print(f"{name}: {reason}")
        return 0

    methods = options.start_method or START_METHODS
    if len(methods) > 1:
        return run_each(methods)
    return run_one(methods[0], options)


def run_each(methods: Sequence[str]) -> int:
    """Run each start method in a process of its own, all at once: the tests mostly wait."""
    command = [sys.executable, "-m", "tests.cpython.executor", *sys.argv[1:]]
    runs = []
    for method in methods:
        # A file and not a pipe, which whatever a test leaves behind could keep open.
        output = tempfile.TemporaryFile("w+")  # noqa: SIM115
        process = subprocess.Popen(
            [*command, f"--start-method={method}"], stdout=output, stderr=subprocess.STDOUT
        )
        runs.append((method, process, output))
    worst = 0
    for method, process, output in runs:
        worst = max(worst, abs(process.wait()))
        output.seek(0)
        print(f"\n=== {method}\n{output.read()}", flush=True)
        output.close()
    return worst


def run_one(method: str, options: argparse.Namespace) -> int:
    """Run the tests for one start method in this process."""
    module, _, name = options.executor.partition(":")
    executor_type = getattr(importlib.import_module(module), name)
    TimedResult.limit_seconds = options.timeout
    try:
        modules = import_modules()
        if module != "concurrent.futures":
            replace_executor(modules, executor_type)
        suite, left_out = collect(method, options.k)
    except MissingTestsError as error:
        print(error, file=sys.stderr)
        return 2
    print(
        f"CPython {platform.python_version()}'s own tests against {options.executor}, {method}",
        flush=True,
    )
    runner = unittest.TextTestRunner(resultclass=TimedResult, verbosity=2)
    result = runner.run(suite)
    bad = len(result.failures) + len(result.errors)
    print(
        f"{result.testsRun - bad - len(result.skipped)} passed, {len(result.skipped)} skipped,"
        f" {bad} failed, {len(left_out)} left out (--list says why)"
    )
    return 0 if result.wasSuccessful() and result.testsRun else 1


if __name__ == "__main__":
    sys.exit(main())
