"""CPython's own tests of ``multiprocessing.Pool``, where the interpreter came with them."""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys
from pathlib import Path

import pytest
from processes import await_death, reap_orphans, tree

ROOT = Path(__file__).parents[2]

pytestmark = [
    pytest.mark.slow,
    pytest.mark.timeout(300),
    pytest.mark.skipif(
        importlib.util.find_spec("test._test_multiprocessing") is None,
        reason="this interpreter came without its tests",
    ),
]


def test_cpythons_own_tests(start_method: str) -> None:
    known = tree(os.getpid())
    command = [sys.executable, "-m", "tests.cpython.pool", f"--start-method={start_method}"]
    done = subprocess.run(command, check=False, cwd=ROOT, capture_output=True, text=True)
    adopted = tree(os.getpid()) - known
    await_death(adopted, 10)
    reap_orphans(adopted)
    assert done.returncode == 0, done.stderr
