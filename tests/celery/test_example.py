"""The example project runs with one command and no server."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

EXAMPLE = Path(__file__).parents[2] / "examples" / "celery" / "run.py"


@pytest.mark.slow
def test_example_runs() -> None:
    run = subprocess.run(
        [sys.executable, str(EXAMPLE)],
        capture_output=True,
        text=True,
        timeout=50,
        start_new_session=True,
        check=False,
    )
    assert run.returncode == 0, run.stdout + run.stderr
    for end in ("returned 5", "in hold_the_lock", "WorkerLostError", "MemoryLimitError", "well"):
        assert end in run.stdout
