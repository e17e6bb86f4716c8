"""Fixtures: pools that are ended after the test, and the check that nothing of them is left."""

from __future__ import annotations

import contextlib
import multiprocessing
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import tasks
from pools import START_METHODS, MakePool
from processes import SUPPORT, Leaks, become_subreaper

import deadpool

# These have a session of their own, with what they need.
collect_ignore = ["celery"]


@pytest.fixture(scope="session", autouse=True)
def _things_that_stay() -> None:
    """Start what is started once in a process and stays: the fork server, the resource tracker."""
    become_subreaper()
    # What a task needs is imported while its call is unpickled, when its deadline runs already.
    os.environ["PYTHONPATH"] = os.pathsep.join([str(SUPPORT), os.environ.get("PYTHONPATH", "")])
    multiprocessing.set_forkserver_preload(["tasks"])
    for method in START_METHODS:
        with deadpool.Deadpool(max_workers=1, mp_context=method) as pool:
            pool.submit(tasks.nothing).result()


@pytest.fixture(autouse=True)
def _nothing_left(_things_that_stay: None) -> Iterator[None]:
    """Fail a test that leaves a process, a thread or a descriptor of a pool behind."""
    leaks = Leaks()
    yield
    leaks.check()


@pytest.fixture(params=START_METHODS)
def start_method(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def make_pool(_nothing_left: None) -> Iterator[MakePool]:
    """Make pools that are ended after the test, however that went."""
    with contextlib.ExitStack() as stack:

        def make(max_workers: int = 1, **options: Any) -> deadpool.Deadpool:
            pool = deadpool.Deadpool(max_workers, **options)
            stack.callback(end, pool)
            return pool

        yield make


@pytest.fixture
def warm_pool(make_pool: MakePool, start_method: str) -> deadpool.Deadpool:
    """A pool with one worker, by each start method, that has imported all it needs."""
    pool = make_pool(mp_context=start_method)
    pool.submit(tasks.nothing).result()
    return pool


def end(pool: deadpool.Deadpool) -> None:
    pool.shutdown(wait=False, cancel_futures=True)
    pool.shutdown()


@pytest.fixture
def pool(make_pool: MakePool) -> deadpool.Deadpool:
    """A pool with one worker."""
    return make_pool()


@pytest.fixture
def pool_of_two(make_pool: MakePool) -> deadpool.Deadpool:
    return make_pool(2)


@pytest.fixture
def begun(tmp_path: Path) -> Path:
    """What a task makes when it has begun."""
    return tmp_path / "begun"


@pytest.fixture
def release(tmp_path: Path) -> Path:
    """What lets a task that holds go on."""
    return tmp_path / "release"
