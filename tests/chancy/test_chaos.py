"""Many jobs while processes are killed: none is lost, and none is run that should not be."""

from __future__ import annotations

import asyncio
import os
import random
import signal
import subprocess
import sys
from collections import Counter
from pathlib import Path

import chancy_jobs as jobs
import pytest
from chancy import QueuedJob
from chancy.plugins.leadership import Leadership
from chancy.plugins.recovery import Recovery
from chancy_site import EXECUTOR, Site, begun, eventually
from processes import await_death, reap_orphans, tree

State = QueuedJob.State

JOBS = 1000
KILL_INTERVAL_SECONDS = 0.1


@pytest.mark.slow
@pytest.mark.timeout(150)
def test_no_job_is_lost_while_workers_are_killed(site: Site) -> None:
    trace = Path(site.file("trace"))
    killed: list[int] = []

    async def kill_now_and_then() -> None:
        draw = random.Random(1)
        while True:
            await asyncio.sleep(KILL_INTERVAL_SECONDS)
            pids = [worker.pid for worker in site.executor.pool.workers() if worker.pid]
            if pids:
                killed.append(draw.choice(pids))
                os.kill(killed[-1], signal.SIGKILL)

    async def story() -> None:
        await site.executor_ready()
        killing = asyncio.create_task(kill_now_and_then())
        pushed = [
            jobs.append.job.with_kwargs(path=str(trace), number=number).with_max_attempts(20)
            for number in range(JOBS)
        ]
        references = [one async for some in site.chancy.push_many(pushed) for one in some]
        try:
            ended = await site.end(*references, seconds=120)
        finally:
            killing.cancel()
        assert Counter(job.state for job in ended) == {State.SUCCEEDED: JOBS}
        runs = Counter(map(int, trace.read_text().split()))
        assert set(runs) == set(range(JOBS))
        # Each further run is one that Chancy asked for, since it was told of a death.
        for number, job in enumerate(ended):
            assert runs[number] <= job.attempts
            assert len(job.errors) == job.attempts - 1
            assert all("exitcode -9 (Killed)" in error["traceback"] for error in job.errors)
        assert len(killed) >= 5

    site.play(story, concurrency=8)


WORKER = """
import asyncio, sys
from chancy import Chancy, Worker

async def main(dsn, prefix):
    async with Chancy(dsn, prefix=prefix, no_default_plugins=True) as chancy:
        worker = Worker(chancy, heartbeat_poll_interval=0.5, heartbeat_timeout=4)
        worker.send_outgoing_interval = 0.01
        async with worker:
            await worker.wait_for_shutdown()

if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:]))
"""


def start_worker(site: Site) -> subprocess.Popen[bytes]:
    script = Path(site.file("worker.py"))
    script.write_text(WORKER)
    return subprocess.Popen(
        [sys.executable, str(script), site.dsn, site.prefix],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )


@pytest.mark.slow
def test_jobs_of_a_worker_that_was_killed_are_recovered(site: Site) -> None:
    """Chancy's own plugin gives them to another worker; of the old one nothing is left."""

    async def main() -> None:
        async with site.application([Leadership(1, 2), Recovery(poll_interval=1)]) as chancy:
            await site.declare(concurrency=2)
            path, release = site.file("begun"), site.file("release")
            references = [
                await site.push(jobs.hold, begun=f"{path}-{n}", release=release) for n in (1, 2)
            ]
            with start_worker(site) as process:
                pids = [pid for n in (1, 2) for pid in await begun(f"{path}-{n}")]
                below = tree(process.pid)
                assert set(pids) <= below
                process.kill()
            await_death(below)
            reap_orphans(below)
            assert {job.state for job in await chancy.get_jobs(references)} == {State.RUNNING}
            jobs.note(release)
            async with site.working(concurrency=2):
                ended = await site.end(*references)
                assert {job.state for job in ended} == {State.SUCCEEDED}
                assert {job.max_attempts for job in ended} == {2}

    asyncio.run(main())


@pytest.mark.slow
def test_what_recovery_has_given_away_is_killed_here(site: Site) -> None:
    """A worker that lives, but was thought dead, is told so; its executions end."""

    async def story() -> None:
        path = site.file("begun")
        reference = await site.push(jobs.hold_in_c, begun=path)
        pids = await begun(path)
        job = site.executor.get_running_job(reference)
        async with site.chancy.pool.connection() as connection, connection.cursor() as cursor:
            table = f"{site.prefix}jobs"
            await cursor.execute(
                f"UPDATE {table} SET state = 'failed', claim_id = NULL WHERE id = %s",  # type: ignore[arg-type]
                [job.id],
            )
            body = {"j": str(job.id), "c": str(job.claim_id)}
            await site.chancy.notify(cursor, "job.recovered", body)
        await eventually(lambda: len(site.executor) == 0)
        await_death(pids)
        await site.run_well()

    site.play(story, concurrency=1, executor=EXECUTOR)
