"""Limits of all tasks, and the replacing of processes."""

from __future__ import annotations

import pytest
from processes import await_death, eventually
from workers import StartWorker, failure


def test_global_limits(start_worker: StartWorker) -> None:
    worker = start_worker(task_time_limit=2, task_soft_time_limit=1)
    assert worker.client.run("catch_soft_limit") == "caught SoftTimeLimitExceeded()"
    assert type(failure(worker.client.send("ignore_soft_limit"))).__name__ == "TimeLimitExceeded"
    assert worker.pool_stats()["timeouts"] == [1, 2]
    # A task's own come first.
    own = worker.client.send("sleep", 2.5, soft_time_limit=5, time_limit=10)
    assert own.get(timeout=10) in worker.worker_pids()


def test_max_tasks_per_child(start_worker: StartWorker) -> None:
    worker = start_worker("--max-tasks-per-child", "2")
    assert worker.pool_stats()["max-tasks-per-child"] == 2
    pids = [worker.client.run("pid") for _ in range(6)]
    assert len(set(pids)) == 3
    assert pids[0::2] == pids[1::2]


def test_max_memory_per_child(start_worker: StartWorker) -> None:
    worker = start_worker("--max-memory-per-child", str(150 * 1024))
    pids = [worker.client.run("grow", 1), worker.client.run("grow", 200)]
    assert pids[0] == pids[1]
    # It goes after the task that made it grow.
    await_death([pids[1]], 5)
    assert worker.client.run("grow", 1) != pids[1]


def test_memory_limit_for_all_tasks(start_worker: StartWorker) -> None:
    worker = start_worker(deadpool_task_memory_limit_bytes=150 << 20)
    error = failure(worker.client.send("hog", 300))
    assert type(error).__name__ == "MemoryLimitError"
    assert "more than its limit of 150.0 MiB" in str(error)
    assert worker.client.run("add", 1, 1) == 2


@pytest.mark.parametrize("method", ["forkserver", "spawn", "fork"])
def test_start_methods(start_worker: StartWorker, method: str) -> None:
    worker = start_worker("-c", "2", deadpool_start_method=method)
    client = worker.client
    assert client.run("add", 1, 2) == 3
    assert client.run("doubled", 2) == 4
    assert type(failure(client.send("kill_itself"))).__name__ == "WorkerLostError"
    assert client.run("catch_soft_limit", soft_time_limit=1).startswith("caught")
    assert client.run("add", 3, 4) == 7
    assert worker.pool_stats()["deadpool"]["start-method"] == method
    eventually(lambda: len(worker.lines("init")) >= 3)
    assert {line.split()[0] for line in worker.lines("init")} == {worker.name}
    assert worker.stop() == 0
    started = {line.split()[1] for line in worker.lines("init")}
    ended = [line.split() for line in worker.lines("shutdown")]
    # All but the one that was killed; on a busy machine there may be more than two of them.
    assert len({pid for _name, pid, _code in ended}) == len(ended) == len(started) - 1
    assert all(name == worker.name and pid in started and code == "0" for name, pid, code in ended)


def test_celerys_own_setting_of_the_start_method(start_worker: StartWorker) -> None:
    worker = start_worker(worker_pool_start_method="spawn")
    assert worker.pool_stats()["deadpool"]["start-method"] == "spawn"
    assert worker.client.run("add", 1, 2) == 3


def test_log_file_for_each_process(start_worker: StartWorker) -> None:
    worker = start_worker("-c", "2", "-f", "process-%i.log")
    worker.client.run("say", "hello")
    # Indices are used again: a process that has died leaves no gap.
    for _ in range(3):
        failure(worker.client.send("kill_itself"))
    worker.client.run("say", "hello again")
    logs = {path.name: path.read_text() for path in worker.notes.glob("process-*.log")}
    assert set(logs) <= {f"process-{number}.log" for number in range(4)}
    assert any("printed: hello again" in text for text in logs.values())


@pytest.mark.parametrize(
    ("config", "sentence"),
    [
        (
            {"deadpool_start_method": "thread"},
            "deadpool_start_method must be 'forkserver', 'spawn' or 'fork', not 'thread'.",
        ),
        (
            {"deadpool_task_memory_limit_bytes": -1},
            "deadpool_task_memory_limit_bytes must be a whole number greater than 0, not -1.",
        ),
        (
            {"deadpool_kill_grace_period": "long"},
            "deadpool_kill_grace_period must be a number of seconds, not 'long'.",
        ),
        ({"deadpool_preload": 1}, "deadpool_preload must be True or False, not 1."),
        ({"deadpool_typing_error": 1}, "deadpool_typing_error is no setting of the Deadpool"),
    ],
)
def test_wrong_setting_is_refused_at_start(
    start_worker: StartWorker, config: dict[str, object], sentence: str
) -> None:
    worker = start_worker(wait=False, **config)
    assert worker.process is not None
    assert worker.process.wait(20) != 0
    assert sentence in worker.log()
