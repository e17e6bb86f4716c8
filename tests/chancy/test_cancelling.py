"""Cancelling jobs, and what comes late of them."""

from __future__ import annotations

import asyncio
import dataclasses
import os
import uuid

import chancy_jobs as jobs
import pytest
from chancy import QueuedJob, Reference
from chancy.plugin import Plugin
from chancy_site import Site, begun, eventually
from processes import await_death

State = QueuedJob.State


class Endings(Plugin):
    """Remembers how executors say that jobs have ended, and which updates were accepted."""

    def __init__(self) -> None:
        super().__init__()
        self.errors: dict[uuid.UUID, BaseException | None] = {}
        self.accepted: set[uuid.UUID] = set()

    @staticmethod
    def get_identifier() -> str:
        return "tests.endings"

    async def on_job_completed(
        self,
        *,
        worker: object,
        job: QueuedJob,
        exc: BaseException | None = None,
        result: object = None,
    ) -> QueuedJob:
        self.errors[job.id] = exc
        return job

    async def on_job_updated(self, *, worker: object, job: QueuedJob) -> None:
        self.accepted.add(job.id)


@pytest.fixture
def endings() -> Endings:
    return Endings()


async def check_cancelled(site: Site, endings: Endings, reference: Reference) -> None:
    """Wait until a job is reported cancelled, and check that this is all that is known of it."""
    (job,) = await site.end(reference)
    assert (job.state, job.claim_id) == (State.FAILED, None)
    await eventually(lambda: job.id in endings.errors)
    assert isinstance(endings.errors[job.id], asyncio.CancelledError)
    # What the executor reports of it is refused: the database knows already.
    await site.worker.flush()
    assert job.id not in endings.accepted
    assert (await site.chancy.get_job(reference)) == job


@pytest.mark.parametrize(
    "hold",
    [
        jobs.hold,
        jobs.hold_in_c,
        jobs.hold_in_a_coroutine,
        jobs.hold_with_children,
        jobs.hold_stubbornly,
    ],
)
def test_a_running_job_is_killed_with_all_that_it_started(
    site: Site, endings: Endings, hold: object
) -> None:
    async def story() -> None:
        path = site.file("begun")
        reference = await site.push(hold, begun=path)
        pids = await begun(path)
        await site.chancy.cancel_job(reference)
        await check_cancelled(site, endings, reference)
        await_death(pids)
        await eventually(lambda: len(site.executor) == 0)
        await site.run_well()

    site.play(story, plugins=[endings], concurrency=1)


def test_a_job_that_waits_in_the_database(site: Site) -> None:
    async def story() -> None:
        path, release = site.file("begun"), site.file("release")
        first = await site.push(jobs.hold, begun=path, release=release)
        await begun(path)
        waiting = await site.push(jobs.hold, begun=site.file("never"))
        await site.chancy.cancel_job(waiting)
        jobs.note(release)
        ended = await site.end(first, waiting)
        assert [job.state for job in ended] == [State.SUCCEEDED, State.FAILED]
        await site.run_well()
        assert not os.path.exists(site.file("never"))  # noqa: PTH110

    site.play(story, concurrency=1)


def test_a_job_that_waits_for_a_process(site: Site, endings: Endings) -> None:
    async def story() -> None:
        executor = await site.executor_ready()
        path = site.file("begun")
        running = await site.push(jobs.hold, begun=path)
        await begun(path)
        # More than Chancy would ever push, so that it has to wait.
        job = executor.get_running_job(running)
        extra = dataclasses.replace(
            job, id=uuid.uuid4(), claim_id=uuid.uuid4(), kwargs={"begun": site.file("never")}
        )
        future = await executor.push(extra)
        assert len(executor) == 2
        assert executor.free_slots == -1
        await executor.cancel(Reference(extra.id))
        assert future.cancelled()
        await eventually(lambda: extra.id in endings.errors)
        assert executor.get_running_jobs() == [job]
        await site.chancy.cancel_job(running)
        await check_cancelled(site, endings, running)
        assert not os.path.exists(site.file("never"))  # noqa: PTH110

    site.play(story, plugins=[endings], concurrency=1)


def test_only_the_execution_with_the_same_claim(site: Site, endings: Endings) -> None:
    async def story() -> None:
        path, release = site.file("begun"), site.file("release")
        reference = await site.push(jobs.hold, begun=path, release=release)
        await begun(path)
        job = site.executor.get_running_job(reference)
        await site.executor.cancel_execution(dataclasses.replace(job, claim_id=uuid.uuid4()))
        await site.executor.cancel_execution(dataclasses.replace(job, id=uuid.uuid4()))
        jobs.note(release)
        (ended,) = await site.end(reference)
        assert ended.state is State.SUCCEEDED

    site.play(story, plugins=[endings])


def test_a_late_completion_changes_nothing(site: Site, endings: Endings) -> None:
    async def story() -> None:
        path, release = site.file("begun"), site.file("release")
        reference = await site.push(jobs.hold, begun=path, release=release)
        await begun(path)
        # As if no word of it came to this worker.
        async with site.chancy.pool.connection() as connection:
            table = f"{site.prefix}jobs"
            await connection.execute(
                f"UPDATE {table} SET state = 'failed', claim_id = NULL WHERE id = %s",  # type: ignore[arg-type]
                [reference.identifier],
            )
        jobs.note(release)
        await eventually(lambda: reference.identifier in endings.errors)
        await site.worker.flush()
        assert endings.errors[reference.identifier] is None
        assert reference.identifier not in endings.accepted
        job = await site.chancy.get_job(reference)
        assert job is not None
        assert (job.state, job.attempts) == (State.FAILED, 0)

    site.play(story, plugins=[endings])


def test_cancelling_what_has_ended(site: Site) -> None:
    async def story() -> None:
        reference = await site.push(jobs.nothing)
        (job,) = await site.end(reference)
        await site.executor.cancel(reference)
        await site.executor.cancel_execution(job)
        await site.run_well()

    site.play(story)


def test_many_at_once(site: Site, endings: Endings) -> None:
    async def story() -> None:
        paths = [site.file(f"begun-{number}") for number in range(8)]
        references = [await site.push(jobs.hold_in_c, begun=path) for path in paths]
        pids = [pid for path in paths for pid in await begun(path)]
        assert len(set(pids)) == 8
        await asyncio.gather(*map(site.chancy.cancel_job, references))
        for reference in references:
            await check_cancelled(site, endings, reference)
        await_death(pids)
        await site.run_well()

    site.play(story, plugins=[endings], concurrency=8)
