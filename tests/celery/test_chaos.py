"""Ten thousand tasks while a process is killed every 100 ms."""

from __future__ import annotations

import os
import random
import signal
import threading
from collections import Counter
from contextlib import suppress

import pytest
from brokers import Broker
from celery.exceptions import WorkerLostError
from processes import eventually
from workers import StartWorker, Worker

TASKS = 10_000
# Half of them are acknowledged early, half late.
KEYS = [str(number) for number in range(TASKS // 2)]


class Killer(threading.Thread):
    """Kills a worker process every 100 ms."""

    def __init__(self, worker: Worker) -> None:
        super().__init__()
        self._worker = worker
        self._over = threading.Event()
        self.kills = 0

    def run(self) -> None:
        chance = random.Random(7)
        while not self._over.wait(0.1):
            # The newest notes are of those that live.
            pids = [int(line.split()[1]) for line in self._worker.lines("init")[-3:]]
            with suppress(ProcessLookupError):
                os.kill(chance.choice(pids), signal.SIGKILL)
                self.kills += 1

    def stop(self) -> None:
        self._over.set()
        self.join()


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_each_task_ends_as_acknowledgement_promises(
    start_worker: StartWorker, redis: Broker
) -> None:
    worker = start_worker("-c", "3", "-l", "CRITICAL", broker=redis)
    worker.await_lines("init", 3)
    killer = Killer(worker)
    killer.start()
    try:
        with worker.client.app.producer_pool.acquire() as producer:
            early, late = (
                [worker.client.send(task, task, key, producer=producer) for key in KEYS]
                for task in ("count", "count_late")
            )
        for result in (*early, *late):
            eventually(result.ready, 250)
    finally:
        killer.stop()
    assert killer.kills > 20
    # Acknowledged early: each was begun at most once, and those that were lost say so.
    runs = Counter(worker.lines("count"))
    assert max(runs.values()) == 1
    for key, result in zip(KEYS, early, strict=True):
        if result.state == "SUCCESS":
            assert runs[key] == 1
        else:
            assert type(result.result) is WorkerLostError
    # Acknowledged late: each has ended well, some after more than one attempt.
    assert {result.state for result in late} == {"SUCCESS"}
    assert set(worker.lines("count_late")) == set(KEYS)
    assert worker.stop() == 0
