"""Every Python block of the documentation runs as a script, as a reader would run it."""

from __future__ import annotations

import re
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PAGES = [ROOT / "README.rst", *sorted((ROOT / "docs").glob("*.rst"))]
# What blocks may need, and a module by which to tell that it is there.
EXTRAS = {"cloudpickle": "cloudpickle", "chancy": "chancy.worker"}
BLOCK = re.compile(r"^\.\. code-block:: python\n((?:\n| {4}.*\n)+)", re.MULTILINE)


def needed(block: str) -> list[str]:
    """Return the extras that a block imports."""
    patterns = {extra: rf"^ *(import|from) (deadpool\.)?{extra}\b" for extra in EXTRAS}
    return [extra for extra, pattern in patterns.items() if re.search(pattern, block, re.MULTILINE)]


def blocks() -> list[object]:
    """Return the blocks of all pages, each named by its page and line."""
    return [
        pytest.param(
            textwrap.dedent(match.group(1)),
            id="-".join(
                [
                    f"{page.name}:{text.count(chr(10), 0, match.start()) + 1}",
                    *needed(match.group(1)),
                ]
            ),
        )
        for page in PAGES
        if (text := page.read_text())
        for match in BLOCK.finditer(text)
    ]


@pytest.mark.slow
@pytest.mark.parametrize("block", blocks())
def test_code_block_runs(block: str, tmp_path: Path) -> None:
    for extra in needed(block):
        pytest.importorskip(EXTRAS[extra])
    script = tmp_path / "block.py"
    script.write_text(block)
    run = subprocess.run(
        [sys.executable, "-W", "error", str(script)],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=45,
        start_new_session=True,
        check=False,
    )
    assert run.returncode == 0, f"{block}\n{run.stdout}\n{run.stderr}"


def test_every_block_is_found() -> None:
    """A block that the pattern misses would silently not be run."""
    for page in PAGES:
        text = page.read_text()
        assert text.count(".. code-block:: python\n") == len(BLOCK.findall(text))
