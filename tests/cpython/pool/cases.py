"""CPython's test cases, for the start method that the environment names.

A module of their own, since workers import the classes by its name.
"""

from __future__ import annotations

import os
import unittest
from typing import Any

from test import _test_multiprocessing as source

START_METHOD_VARIABLE = "TESTED_START_METHOD"

# In CPython's source their names begin with an underscore.
CLASSES = ("TestPool", "TestPoolWorkerErrors", "TestPoolWorkerLifetime")

# How many tests these classes have, on versions where that was looked up.
KNOWN_COUNTS = {(3, 13): 31}

_start_method = os.environ.get(START_METHOD_VARIABLE, "fork")
source.install_tests_in_module_dict(globals(), _start_method, only_type="processes")


def replace_pool(pool_class: type[Any]) -> None:
    """Have the tests test another class, in this process and in the scripts that they run."""
    source.ProcessesMixin.Pool = staticmethod(pool_class)
    source.multiprocessing.Pool = pool_class
    module, name = pool_class.__module__, pool_class.__name__
    helper = source.test.support.script_helper
    run = helper.assert_python_ok

    def run_replaced(*args: str, **env: str) -> Any:
        old, new = "from multiprocessing import Pool", f"from {module} import {name} as Pool"
        if not any(old in arg for arg in args):
            raise AssertionError(f"no script with {old!r}")
        return run(*(arg.replace(old, new) for arg in args), **env)

    helper.assert_python_ok = run_replaced


def collect(pattern: str) -> unittest.TestSuite:
    """Return the tests whose name has ``pattern`` in it."""
    suite = unittest.TestSuite()
    for name in CLASSES:
        case = globals()[f"WithProcesses{name}"]
        for method in unittest.defaultTestLoader.getTestCaseNames(case):
            if pattern in f"{name}.{method}":
                suite.addTest(case(method))
    return suite
