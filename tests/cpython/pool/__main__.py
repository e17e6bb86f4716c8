"""Run CPython's tests of ``multiprocessing.Pool`` against Deadpool's, or another class."""

from __future__ import annotations

import argparse
import importlib
import os
import platform
import subprocess
import sys
import unittest

from tests.cpython.executor.harness import START_METHODS, TimedResult


def main() -> int:
    """Return the exit code."""
    parser = argparse.ArgumentParser(prog="python -m tests.cpython.pool", description=__doc__)
    parser.add_argument("-k", default="", metavar="TEXT", help="tests whose name has this text")
    parser.add_argument("--start-method", choices=START_METHODS, action="append")
    parser.add_argument("--pool", default="deadpool.pool:Pool", metavar="MODULE:CLASS")
    parser.add_argument("--timeout", type=float, default=60.0, help="seconds a test may take")
    options = parser.parse_args()
    methods = options.start_method or START_METHODS
    if len(methods) == 1:
        return run_one(methods[0], options)
    # Each in a process of its own, since the start method is the process's.
    arguments = [f"-k={options.k}", f"--pool={options.pool}", f"--timeout={options.timeout}"]
    command = [sys.executable, "-m", "tests.cpython.pool", *arguments]
    codes = []
    for method in methods:
        run = subprocess.run([*command, f"--start-method={method}"], check=False)
        codes.append(abs(run.returncode))
    return max(codes)


def run_one(method: str, options: argparse.Namespace) -> int:
    """Run the tests for one start method in this process."""
    from tests.cpython.pool.cases import START_METHOD_VARIABLE

    os.environ[START_METHOD_VARIABLE] = method
    cases = importlib.reload(sys.modules["tests.cpython.pool.cases"])
    module, _, name = options.pool.partition(":")
    if module != "multiprocessing":
        cases.replace_pool(getattr(importlib.import_module(module), name))
    TimedResult.limit_seconds = options.timeout
    version = platform.python_version()
    print(f"CPython {version}'s own tests against {options.pool}, {method}", flush=True)
    result = unittest.TextTestRunner(resultclass=TimedResult, verbosity=2).run(
        cases.collect(options.k)
    )
    bad = len(result.failures) + len(result.errors)
    print(f"{result.testsRun - bad} passed, {len(result.skipped)} skipped, {bad} failed")
    expected = cases.KNOWN_COUNTS.get(sys.version_info[:2])
    if expected is not None and not options.k and result.testsRun != expected:
        print(f"there should have been {expected} tests", file=sys.stderr)
        return 2
    return 0 if result.wasSuccessful() and result.testsRun else 1


if __name__ == "__main__":
    sys.exit(main())
