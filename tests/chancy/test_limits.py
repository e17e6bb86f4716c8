"""Limits of jobs, and their deaths: each fails its own job, says why, and the worker goes on."""

from __future__ import annotations

import dataclasses
import math
import signal
import time
from typing import Any

import chancy_jobs as jobs
import pytest
from chancy import Limit, QueuedJob
from chancy.plugin import Plugin
from chancy_site import Site, begun, error_of
from processes import await_death

State = QueuedJob.State


@pytest.mark.parametrize(
    "hold", [jobs.hold, jobs.hold_in_c, jobs.hold_in_a_coroutine, jobs.hold_stubbornly]
)
def test_the_time_limit_holds(site: Site, hold: object) -> None:
    async def story() -> None:
        path = site.file("begun")
        reference = await site.push(hold, jobs.seconds(1), begun=path)
        pids = await begun(path)
        start = time.monotonic()
        (job,) = await site.end(reference)
        assert time.monotonic() - start < 4
        error = error_of(job)
        assert "deadpool.TimeoutError" in error
        assert f"Task chancy_jobs.{hold.job.func.rpartition('.')[2]} timed out after 1 s" in error  # type: ignore[attr-defined]
        # The stack says where it was; of a coroutine that waits there is only the loop's.
        assert ("chancy_jobs.py" if hold is not jobs.hold_in_a_coroutine else "asyncio") in error
        await_death(pids)
        await site.run_well()

    site.play(story, concurrency=1)


def test_a_time_limit_that_is_kept(site: Site) -> None:
    async def story() -> None:
        job = await site.run(jobs.add, jobs.seconds(30), jobs.memory(1 << 30), a=1, b=2)
        assert job.state is State.SUCCEEDED

    site.play(story)


def test_the_memory_limit(site: Site) -> None:
    async def story() -> None:
        error = error_of(await site.run(jobs.allocate, jobs.memory(150 * jobs.MIB), mib=300))
        assert "deadpool.MemoryLimitError" in error
        assert "more than its limit of 150.0 MiB" in error
        assert "in allocate" in error
        await site.run_well()

    site.play(story, concurrency=1)


def test_the_memory_limit_counts_children(site: Site) -> None:
    async def story() -> None:
        limit = jobs.memory(150 * jobs.MIB)
        error = error_of(await site.run(jobs.allocate_in_a_child, limit, mib=300))
        assert "MemoryLimitError" in error
        await site.run_well()

    site.play(story, concurrency=1)


def test_the_memory_limit_as_address_space_where_asked(site: Site) -> None:
    async def story() -> None:
        job = await site.run(jobs.allocate, jobs.memory(2048 * jobs.MIB), mib=3000)
        assert (job.state, job.meta["refused"]) == (State.SUCCEEDED, True)
        # The next job of the process has no limit any more.
        job = await site.run(jobs.allocate_and_free, mib=3000)
        assert job.state is State.SUCCEEDED

    site.play(story, concurrency=1, executor_options={"limit_address_space": True})


TIME = "the job's TIME limit must be "
MEMORY = "the job's MEMORY limit, in bytes, must be "


@pytest.mark.parametrize(
    ("type_", "value", "sentence"),
    [
        (Limit.Type.TIME, "soon", f"{TIME}a number of seconds, not 'soon'"),
        (Limit.Type.TIME, "60", f"{TIME}a number of seconds, not '60'"),
        (Limit.Type.TIME, True, f"{TIME}a number of seconds, not True"),
        (Limit.Type.TIME, [60], f"{TIME}a number of seconds, not [60]"),
        (Limit.Type.TIME, -1, f"{TIME}at least 0 seconds and finite, not -1"),
        (Limit.Type.TIME, -0.5, f"{TIME}at least 0 seconds and finite, not -0.5"),
        (Limit.Type.TIME, math.nan, f"{TIME}at least 0 seconds and finite, not nan"),
        (Limit.Type.TIME, math.inf, f"{TIME}at least 0 seconds and finite, not inf"),
        (Limit.Type.MEMORY, "1 GB", f"{MEMORY}an integer, not '1 GB'"),
        (Limit.Type.MEMORY, 1.5e9, f"{MEMORY}an integer, not 1500000000.0"),
        (Limit.Type.MEMORY, False, f"{MEMORY}an integer, not False"),
        (Limit.Type.MEMORY, math.nan, f"{MEMORY}an integer, not nan"),
        (Limit.Type.MEMORY, 0, f"{MEMORY}at least 1 and less than 2**63, not 0"),
        (Limit.Type.MEMORY, -1, f"{MEMORY}at least 1 and less than 2**63, not -1"),
        (Limit.Type.MEMORY, 1 << 63, f"{MEMORY}at least 1 and less than 2**63, not {1 << 63}"),
    ],
)
def test_a_limit_that_is_none_fails_its_job_and_is_named(
    site: Site, type_: Limit.Type, value: Any, sentence: str
) -> None:
    class Limiting(Plugin):
        """Sets the limit as it is, since not all of them get through the database."""

        @staticmethod
        def get_identifier() -> str:
            return "tests.limiting"

        async def on_job_starting(self, *, job: QueuedJob, worker: object) -> QueuedJob:
            if job.func.endswith("nothing"):
                return dataclasses.replace(job, limits=[Limit(type_, value)])
            return job

    async def story() -> None:
        error = error_of(await site.run(jobs.nothing))
        assert error.rstrip().endswith(f"Error: {sentence}")
        await site.run_well()

    site.play(story, concurrency=1, plugins=[Limiting()])


@pytest.mark.parametrize(
    ("limit", "sentence"),
    [
        (jobs.seconds("soon"), f"{TIME}a number of seconds, not 'soon'"),  # type: ignore[arg-type]
        (jobs.memory(-1), f"{MEMORY}at least 1 and less than 2**63, not -1"),
    ],
)
def test_a_limit_of_the_database_that_is_none(site: Site, limit: Limit, sentence: str) -> None:
    async def story() -> None:
        assert sentence in error_of(await site.run(jobs.nothing, limit))
        await site.run_well()

    site.play(story, concurrency=1)


def test_limits_that_nobody_reaches(site: Site) -> None:
    async def story() -> None:
        limits = [jobs.seconds(10**400), jobs.memory((1 << 63) - 1)]
        job = await site.run(jobs.add, *limits, a=1, b=2)
        assert job.state is State.SUCCEEDED

    options = {"limit_address_space": True, "time_limit_grace_seconds": 10**9}
    site.play(story, concurrency=1, executor_options=options)


def test_a_process_that_does_not_get_ready_fails_the_job_that_waits(site: Site) -> None:
    async def story() -> None:
        start = time.monotonic()
        error = error_of(await site.run(jobs.nothing, jobs.seconds(1)))
        assert "starts in " in error
        assert "came to nothing, the last because a worker was not ready in time" in error
        assert time.monotonic() - start < 20

    options = {"worker_start_timeout_seconds": 0.5}
    site.play(
        story,
        executor="chancy_executors.Unready",
        concurrency=1,
        executor_options=options,
        shutdown_timeout=5,
    )


def test_a_job_that_is_killed(site: Site) -> None:
    async def story() -> None:
        error = error_of(await site.run(jobs.kill_itself, number=signal.SIGKILL))
        assert "died while running chancy_jobs.kill_itself: exitcode -9 (Killed)" in error
        await site.run_well()

    site.play(story, concurrency=1)


def test_a_job_that_segfaults_says_where(site: Site) -> None:
    async def story() -> None:
        error = error_of(await site.run(jobs.segfault))
        assert "exitcode -11 (Segmentation fault)" in error
        assert "in segfault" in error
        assert "MiB of memory when last seen" in error
        await site.run_well()

    site.play(story, concurrency=1)


def test_a_death_is_of_no_concern_to_neighbours(site: Site) -> None:
    async def story() -> None:
        path, release = site.file("begun"), site.file("release")
        neighbour = await site.push(jobs.hold, begun=path, release=release)
        await begun(path)
        for _ in range(3):
            error_of(await site.run(jobs.segfault))
        jobs.note(release)
        (job,) = await site.end(neighbour)
        assert job.state is State.SUCCEEDED

    site.play(story, concurrency=2)


def test_time_to_clean_up(site: Site) -> None:
    async def story() -> None:
        path = site.file("begun")
        job = await site.run(
            jobs.clean_up_when_interrupted, jobs.seconds(1), begun=path, left=site.file("left")
        )
        assert "TimeoutError: the time limit of the job has passed" in error_of(job)
        assert await begun(site.file("left"))  # It had the time to do so.
        start = time.monotonic()
        job = await site.run(jobs.hold_stubbornly, jobs.seconds(1), begun=site.file("stubborn"))
        assert "deadpool.TimeoutError" in error_of(job)
        assert time.monotonic() - start >= 2
        await site.run_well()

    site.play(story, concurrency=1, executor_options={"time_limit_grace_seconds": 1})
