"""A few runs of the storm in ``chaos``; ``nox -s chaos`` makes many."""

from __future__ import annotations

import pytest
from chaos import soak
from pools import START_METHODS

TASKS = 120


@pytest.mark.slow
@pytest.mark.timeout(soak.STUCK_SECONDS + 20)
@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("method", START_METHODS)
def test_a_storm(method: str, seed: int) -> None:
    result = soak.run_apart(seed, TASKS, method)
    assert not isinstance(result, str), result
    assert result["tasks"] > 0


def test_a_seed_decides_the_same_again() -> None:
    # The processes and their timing are the world's, and are not repeated.
    first, second = (soak.decisions(7, TASKS) for _ in range(2))
    assert first == second != soak.decisions(8, TASKS)
