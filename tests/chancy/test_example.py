"""The example runs as it stands, and says by its exit code whether all was well."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

EXAMPLE = Path(__file__).parent.parent.parent / "examples" / "chancy" / "library_report.py"


@pytest.mark.slow
def test_example_runs(dsn: str) -> None:
    run = subprocess.run(
        [sys.executable, "-W", "error", str(EXAMPLE), "--jobs", "30", "--dsn", dsn],
        capture_output=True,
        text=True,
        timeout=50,
        start_new_session=True,
        check=False,
    )
    assert run.returncode == 0, run.stdout + run.stderr
    assert "30 of 30 modules examined" in run.stdout
