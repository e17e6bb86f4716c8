"""Tasks of all kinds end as Celery promises, with each broker."""

from __future__ import annotations

import os
import time
import uuid

import pytest
from celery import chain, chord, group
from celery.exceptions import SoftTimeLimitExceeded, TimeLimitExceeded, WorkerLostError
from processes import LONG_SECONDS, await_death, eventually
from workers import Client, Worker, failure, get


def needs_event_loop(worker: Worker) -> None:
    if not worker.broker.has_event_loop:
        pytest.skip("without an event loop Celery reads nothing while all processes are busy")


def test_group_of_two_hundred(client: Client) -> None:
    result = group([client.s("add", n, n) for n in range(200)], app=client.app).apply_async()
    assert get(result) == [2 * n for n in range(200)]


def test_chain(client: Client) -> None:
    steps = [client.s("add", 1, 2), client.s("add", 3), client.s("add", 4)]
    assert get(chain(*steps, app=client.app).apply_async()) == 10


def test_chord(client: Client) -> None:
    header = [client.s("add", n, 1) for n in range(10)]
    assert get(chord(header, app=client.app)(client.s("total"))) == 55


def test_retry(client: Client) -> None:
    assert client.run("third_time_lucky") == 2


def test_exception(client: Client) -> None:
    result = client.send("fail", "why")
    error = failure(result)
    assert isinstance(error, KeyError)
    assert error.args == ("why",)
    assert "in fail" in result.traceback


def test_unpicklable_exception(client: Client) -> None:
    error = failure(client.send("raise_unpicklable"))
    assert "Unpicklable" in type(error).__name__ + str(error)


def test_soft_limit_is_caught(client: Client, worker: Worker) -> None:
    # It also counts what Celery does before the task's own code.
    result = client.send("catch_soft_limit", soft_time_limit=1)
    assert get(result) == "caught SoftTimeLimitExceeded()"
    worker.await_log(f"Soft time limit (1s) exceeded for project.catch_soft_limit[{result.id}]")


def test_soft_limit_is_not_caught(client: Client) -> None:
    assert isinstance(failure(client.send("sleep", 60, soft_time_limit=0.2)), SoftTimeLimitExceeded)


def test_hard_limit_in_c_code_that_holds_the_gil(client: Client, worker: Worker) -> None:
    begun = uuid.uuid4().hex
    result = client.send("hold_the_gil", begun, time_limit=0.3)
    (pid,) = worker.await_lines(begun)
    error = failure(result)
    assert type(error) is TimeLimitExceeded
    assert error.args[0] == 0.3
    await_death([int(pid)])
    # The stack of where it was stuck, in the exception, the result's traceback and the log.
    assert "in hold_the_gil" in error.args[1]
    # Result objects keep what they have read first, when the traceback may not have been there.
    eventually(lambda: "in hold_the_gil" in (client.app.AsyncResult(result.id).traceback or ""))
    assert client.app.AsyncResult(result.id).get(propagate=False).args == error.args
    worker.await_log(f"Hard time limit (0.3s) exceeded for project.hold_the_gil[{result.id}]")
    assert "in hold_the_gil" in worker.log()
    assert "project.hold_the_gil TimeLimitExceeded" in worker.lines("failures")


def test_message_with_a_wrong_limit_fails_and_harms_nobody_else(client: Client) -> None:
    error = failure(client.send("add", 1, 1, time_limit=-1))
    assert "deadpool_timeout must be >= 0 seconds, not -1" in str(error)
    assert client.run("add", 1, 1) == 2


@pytest.mark.parametrize(("task", "meaning"), [("kill_itself", "SIGKILL"), ("crash", "SIGSEGV")])
def test_death_is_known_at_once(client: Client, task: str, meaning: str) -> None:
    began = time.monotonic()
    error = failure(client.send(task))
    # What the pool needs is a thousandth of that; polling for the result is the rest.
    assert time.monotonic() - began < 5
    assert type(error) is WorkerLostError
    assert str(error).startswith("Worker exited prematurely: signal")
    assert meaning in str(error)
    assert f"while running project.{task}" in str(error)
    assert client.run("add", 1, 1) == 2


def test_dies_once_with_late_acknowledgement(client: Client) -> None:
    assert client.run("die_once", uuid.uuid4().hex) == "second time"


def test_exit_is_the_loss_of_a_worker(client: Client) -> None:
    error = failure(client.send("exit_task", 3))
    assert type(error) is WorkerLostError
    assert "exitcode 3" in str(error)


def test_reject(client: Client) -> None:
    assert type(failure(client.send("reject"))).__name__ == "Reject"


def test_reject_and_requeue(client: Client) -> None:
    assert client.run("reject", uuid.uuid4().hex) == "second time"


def test_memory_limit_of_a_task(client: Client) -> None:
    error = failure(client.send("hog_with_limit", 300))
    assert type(error).__name__ == "MemoryLimitError"
    assert "more than its limit of 150.0 MiB" in str(error)


def test_output_and_log_of_tasks_are_logged(client: Client, worker: Worker) -> None:
    text = uuid.uuid4().hex
    client.run("say", text)
    worker.await_log(f"logged: {text}")
    worker.await_log(f"printed: {text}")
    (line,) = [line for line in worker.log().splitlines() if f"printed: {text}" in line]
    assert line.startswith("[")
    assert "/DeadpoolWorker-" in line


def test_revoke_of_a_waiting_task(client: Client, worker: Worker) -> None:
    needs_event_loop(worker)
    begun = uuid.uuid4().hex
    running = [client.send("sleep", 600, begun) for _ in range(2)]
    worker.await_lines(begun, 2)
    waiting = client.send("count", "never", "run")
    waiting.revoke()
    _await_revoked(worker, waiting.id)
    for result in running:
        result.revoke(terminate=True)
    for result in (*running, waiting):
        assert type(failure(result)).__name__ == "TaskRevokedError"
    assert client.run("add", 2, 2) == 4
    assert worker.lines("never") == []


def _await_revoked(worker: Worker, task_id: str) -> None:
    eventually(lambda: task_id in worker.ask("revoked"))


@pytest.mark.parametrize("signal", ["SIGTERM", "SIGKILL"])
def test_revoke_of_a_running_task_takes_all_its_processes(
    client: Client, worker: Worker, signal: str
) -> None:
    begun = uuid.uuid4().hex
    result = client.send("sleep_with_family", begun)
    (line,) = worker.await_lines(begun)
    pids = [int(pid) for pid in line.split()]
    assert len(pids) == 3
    result.revoke(terminate=True, signal=signal)
    assert type(failure(result)).__name__ == "TaskRevokedError"
    await_death(pids, LONG_SECONDS)


def test_sigusr1_raises_the_soft_limit(client: Client, worker: Worker) -> None:
    begun = uuid.uuid4().hex
    result = client.send("sleep", 600, begun)
    (pid,) = worker.await_lines(begun)
    os.kill(int(pid), 10)
    assert isinstance(failure(result), SoftTimeLimitExceeded)
    # The process goes on.
    assert int(pid) in worker.worker_pids()


def test_revoke_with_sigusr1_lets_the_task_clean_up(client: Client, worker: Worker) -> None:
    begun, cleaned = uuid.uuid4().hex, uuid.uuid4().hex
    # Longer than a process has that is to be killed.
    result = client.send("clean_up", begun, cleaned, 1.5)
    (pid,) = worker.await_lines(begun)
    eventually(lambda: [task["id"] for task in worker.ask("active")] == [result.id])
    result.revoke(terminate=True, signal="SIGUSR1")
    _await_revoked(worker, result.id)
    worker.await_lines(cleaned)
    assert int(pid) in worker.worker_pids()


def test_active_and_reserved(client: Client, worker: Worker) -> None:
    needs_event_loop(worker)
    begun = uuid.uuid4().hex
    running = [client.send("sleep", 600, begun) for _ in range(2)]
    pids = {int(pid) for pid in worker.await_lines(begun, 2)}
    waiting = client.send("nothing")
    eventually(lambda: [task["id"] for task in worker.ask("reserved")] == [waiting.id])
    active = worker.ask("active")
    assert {task["id"] for task in active} == {result.id for result in running}
    assert {task["worker_pid"] for task in active} == pids
    assert all(task["acknowledged"] for task in active)
    for result in running:
        result.revoke(terminate=True, signal="SIGKILL")
    assert get(waiting) is None


def test_high_priority_overtakes_what_was_fetched(client: Client, worker: Worker) -> None:
    needs_event_loop(worker)
    begun, release, order = (uuid.uuid4().hex for _ in range(3))
    running = [client.send("hold_late", begun, release) for _ in range(2)]
    worker.await_lines(begun, 2)
    # Smaller numbers come first with Redis.
    low, high = (9, 0) if worker.broker.name == "redis" else (0, 9)
    for number in range(5):
        client.send("count", order, f"low {number}", priority=low)
    eventually(lambda: len(worker.ask("reserved")) == 5)
    client.send("count", order, "high", priority=high)
    eventually(lambda: len(worker.ask("reserved")) == 6)
    worker.notes.joinpath(release).touch()
    for result in running:
        get(result)
    # Two processes take the first two at once.
    assert "high" in worker.await_lines(order, 6)[:2]


def test_stats(client: Client, worker: Worker) -> None:
    client.run("nothing")
    stats = worker.pool_stats()
    assert stats["implementation"] == "deadpool.celery:TaskPool"
    assert stats["max-concurrency"] == 2
    assert len(stats["processes"]) == 2
    assert stats["max-tasks-per-child"] == "N/A"
    assert stats["timeouts"] == [0, 0]
    assert stats["put-guarded-by-semaphore"] is not worker.broker.has_event_loop
    assert stats["writes"]["total"] >= 1
    assert stats["writes"]["inqueues"]["total"] == 2
    assert stats["deadpool"]["start-method"] == "forkserver"
    assert stats["deadpool"]["statistics"]["worker_processes_still_alive"] == 2
    assert all(state["pid"] in stats["processes"] for state in stats["deadpool"]["workers"])
