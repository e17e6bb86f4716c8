"""What the installed package holds beside its code."""

from __future__ import annotations

from pathlib import Path

import deadpool


def test_type_checkers_are_told_that_there_are_types() -> None:
    assert Path(deadpool.__file__).with_name("py.typed").exists()
