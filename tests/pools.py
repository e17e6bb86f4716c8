"""What tests say of pools. Not in a conftest, of which there are several."""

from __future__ import annotations

from collections.abc import Callable

import deadpool

START_METHODS = ("forkserver", "spawn", "fork")

MakePool = Callable[..., deadpool.Deadpool]
