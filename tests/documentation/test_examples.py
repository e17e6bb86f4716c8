"""Every example runs as it stands, and says by its exit code whether all was well."""

from __future__ import annotations

import hashlib
import subprocess
import sys
from pathlib import Path

import pytest

EXAMPLES = Path(__file__).parents[2] / "examples"


def run_example(name: str, *arguments: object) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-W", "error", str(EXAMPLES / name), *map(str, arguments)],
        capture_output=True,
        text=True,
        timeout=50,
        start_new_session=True,
        check=False,
    )


@pytest.mark.slow
@pytest.mark.parametrize(
    "name", ["asyncio_service.py", "priorities.py", "survive_crashes.py", "word_counts.py"]
)
def test_example_runs(name: str) -> None:
    run = run_example(name)
    assert run.returncode == 0, run.stdout + run.stderr


def test_every_example_is_run_here() -> None:
    text = Path(__file__).read_text()
    assert [path.name for path in EXAMPLES.glob("*.py") if f'"{path.name}"' not in text] == []


@pytest.mark.slow
def test_checksums_of_a_part_of_the_standard_library() -> None:
    run = run_example("checksums.py", "--limit", 300, "--workers", 2, "--sample", 20)
    assert run.returncode == 0, run.stdout + run.stderr
    assert "a sample of 20 is right" in run.stdout


def test_checksums_counts_failures_and_goes_on(tmp_path: Path) -> None:
    for number in range(20):
        (tmp_path / f"{number}.bin").write_bytes(bytes([number]) * 1000)
    # A deadline that has passed before the work begins fails every file, and the table says so.
    run = run_example("checksums.py", tmp_path, "--workers", 2, "--timeout", 0)
    assert run.returncode == 0, run.stdout + run.stderr
    assert "of these TimeoutError" in run.stdout


def test_checksums_are_right(tmp_path: Path) -> None:
    sys.path.insert(0, str(EXAMPLES))
    try:
        import checksums
    finally:
        sys.path.remove(str(EXAMPLES))
    content = b"some bytes that compress well " * 100_000
    (tmp_path / "big.txt").write_bytes(content)
    entry = checksums.checksum(str(tmp_path / "big.txt"))
    assert entry.sha256 == hashlib.sha256(content).hexdigest()
    assert entry.size_bytes == len(content)
    assert 0 < entry.compressed_bytes < len(content) / 20


def test_checksums_tells_that_a_result_differs(tmp_path: Path) -> None:
    sys.path.insert(0, str(EXAMPLES))
    try:
        import checksums
    finally:
        sys.path.remove(str(EXAMPLES))
    path = tmp_path / "file"
    path.write_bytes(b"before")
    report = checksums.Report(done={str(path): checksums.checksum(str(path))})
    assert checksums.differing(report, 5) == []
    path.write_bytes(b"after")
    assert checksums.differing(report, 5) == [str(path)]
