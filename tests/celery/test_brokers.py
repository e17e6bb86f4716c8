"""Brokers that are used in their own ways: in memory, by a worker in the same process, and SQL."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import project
import pytest
from brokers import Broker, filesystem
from workers import StartWorker, failure, get

HERE = Path(__file__).parent


@pytest.mark.parametrize("method", ["forkserver", "spawn", "fork"])
def test_worker_in_the_same_process(tmp_path: Path, method: str) -> None:
    config = {
        "broker_url": "memory://",
        "result_backend": filesystem(tmp_path / "broker").config["result_backend"],
        "deadpool_start_method": method,
    }
    environ = {**os.environ, project.CONFIG: json.dumps(config), project.NOTES: str(tmp_path)}
    run = subprocess.run(
        [sys.executable, str(HERE / "embedded.py")],
        capture_output=True,
        check=False,
        text=True,
        timeout=50,
        env=environ,
    )
    assert run.returncode == 0, run.stderr
    assert run.stdout.split() == ["3", "8"]


# Of kombu's own tables.
@pytest.mark.filterwarnings("ignore:.*noload")
def test_sql(start_worker: StartWorker, tmp_path: Path) -> None:
    pytest.importorskip("sqlalchemy")
    results = filesystem(tmp_path / "results").config["result_backend"]
    url = f"sqla+sqlite:///{tmp_path / 'queue.sqlite'}"
    config = {
        "broker_url": url,
        "result_backend": results,
        "worker_enable_remote_control": False,
    }
    worker = start_worker("-c", "2", broker=Broker("sql", config))
    client = worker.client
    assert get(client.send("add", 1, 2)) == 3
    assert (
        type(failure(client.send("hold_the_gil", time_limit=0.3))).__name__ == "TimeLimitExceeded"
    )
    assert type(failure(client.send("kill_itself"))).__name__ == "WorkerLostError"
    sums = [client.send("add", n, 1) for n in range(10)]
    assert sum(get(result) for result in sums) == 55
    assert worker.stop() == 0
