"""Jobs that end by themselves: what they see, and what Chancy records of them."""

from __future__ import annotations

import chancy_jobs as jobs
import pytest
from chancy import QueuedJob
from chancy.plugin import Plugin
from chancy_site import Site, begun, error_of

State = QueuedJob.State


def test_a_function_a_coroutine_and_what_they_leave_in_meta(site: Site) -> None:
    async def story() -> None:
        for function in (jobs.add, jobs.add_later):
            job = await site.run(function, a=1, b=2)
            assert (job.state, job.attempts, job.errors) == (State.SUCCEEDED, 1, [])
            assert job.meta == {"sum": 3}
            assert job.completed_at is not None

    site.play(story)


def test_what_a_job_sees(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    # After the fork server has started, which does not see it.
    monkeypatch.setenv("COLOUR", "red")

    async def story() -> None:
        job = await site.run(jobs.tell)
        assert job.meta["id"] == str(job.id)
        assert job.meta["attempts"] == 0
        assert job.meta["environ"] == "red"

    site.play(story)


def test_an_exception_comes_with_the_traceback_of_the_process(site: Site) -> None:
    async def story() -> None:
        error = error_of(await site.run(jobs.fail, message="no such thing"))
        assert "KeyError: 'no such thing'" in error
        assert "in fail" in error
        await site.run_well()

    site.play(story)


def test_what_can_not_be_pickled_or_is_no_exception(site: Site) -> None:
    async def story() -> None:
        assert "UnpicklableError" in error_of(await site.run(jobs.fail_unpicklably))
        assert "pickle" in error_of(await site.run(jobs.return_unpicklable)).lower()
        assert "SystemExit: 3" in error_of(await site.run(jobs.exit_with, code=3))
        await site.run_well()

    site.play(story, concurrency=1)


def test_a_function_that_is_not_there(site: Site) -> None:
    async def story() -> None:
        reference = await site.chancy.push(
            jobs.nothing.job.__class__(func="chancy_jobs.no_such_function")
        )
        (job,) = await site.end(reference)
        assert "Could not find function no_such_function" in error_of(job)
        await site.run_well()

    site.play(story)


def test_attempts_are_repeated_by_chancy(site: Site) -> None:
    async def story() -> None:
        path = site.file("tries")
        job = await site.run(jobs.fail_until, attempts=5, path=path, times=2)
        assert (job.state, job.attempts, len(job.errors)) == (State.SUCCEEDED, 3, 2)
        path = site.file("more-tries")
        job = await site.run(jobs.die_until, attempts=2, path=path, times=1)
        assert (job.state, job.attempts, len(job.errors)) == (State.SUCCEEDED, 2, 1)

    site.play(story)


def test_retries_are_the_pools_and_cost_no_attempt(site: Site) -> None:
    async def story() -> None:
        job = await site.run(jobs.die_until, path=site.file("tries"), times=2)
        assert (job.state, job.attempts, job.errors) == (State.SUCCEEDED, 1, [])

    site.play(story, executor_options={"retries": 2})


class Observer(Plugin):
    """Takes part in the life of a job, and remembers what it was told."""

    def __init__(self) -> None:
        super().__init__()
        self.completed: list[tuple[QueuedJob, BaseException | None, object]] = []
        self.updated: list[QueuedJob] = []

    @staticmethod
    def get_identifier() -> str:
        return "tests.observer"

    async def on_job_starting(self, *, job: QueuedJob, worker: object) -> QueuedJob:
        job.kwargs["b"] = 10
        return job

    async def on_job_completed(
        self,
        *,
        worker: object,
        job: QueuedJob,
        exc: BaseException | None = None,
        result: object = None,
    ) -> QueuedJob:
        self.completed.append((job, exc, result))
        job.meta["seen"] = True
        return job

    async def on_job_updated(self, *, worker: object, job: QueuedJob) -> None:
        self.updated.append(job)


def test_the_hooks_of_plugins(site: Site) -> None:
    observer = Observer()

    async def story() -> None:
        job = await site.run(jobs.add, a=1, b=2)
        assert job.meta == {"sum": 11, "seen": True}
        ((completed, error, result),) = observer.completed
        assert (completed.id, error, result) == (job.id, None, 11)
        assert [updated.id for updated in observer.updated] == [job.id]

    site.play(story, plugins=[observer])


def test_the_order_of_priorities_and_the_queues_concurrency(site: Site) -> None:
    async def story() -> None:
        release = site.file("release")
        first = await site.push(jobs.hold, begun=site.file("begun"), release=release)
        # Only while it holds the queue do the others wait for each other.
        await begun(site.file("begun"))
        low = [await site.push(jobs.stamp, priority=1) for _ in range(3)]
        high = [await site.push(jobs.stamp, priority=2) for _ in range(3)]
        jobs.note(release)
        ended = await site.end(first, *low, *high)
        times = [job.meta["at"] for job in ended[1:]]
        assert max(times[3:]) < min(times[:3])

    site.play(story, concurrency=1)


def test_a_rate_limit_holds(site: Site) -> None:
    async def story() -> None:
        references = [await site.push(jobs.stamp) for _ in range(7)]
        ended = await site.end(*references)
        started = sorted(job.started_at.timestamp() for job in ended if job.started_at)
        # Three in each window of two seconds, so the last comes after two ends of windows.
        assert started[-1] - started[0] > 1.9
        assert all(job.state is State.SUCCEEDED for job in ended)

    site.play(story, rate_limit=3, rate_limit_window=2)


def test_a_process_is_replaced_after_so_many_jobs(site: Site) -> None:
    async def story() -> None:
        pids = [(await site.run(jobs.tell)).meta["pid"] for _ in range(6)]
        assert len(set(pids)) == 3

    site.play(story, concurrency=1, executor_options={"maximum_jobs_per_worker": 2})


@pytest.mark.parametrize(
    ("options", "sign"),
    [
        ({"start_method": "spawn"}, "spawn_main"),
        ({"mp_context": "fork"}, None),
        ({}, "deadpool._child.fork_server"),
    ],
)
def test_start_methods_by_name(site: Site, options: dict[str, str], sign: str | None) -> None:
    async def story() -> None:
        ancestors = " ".join((await site.run(jobs.tell)).meta["ancestors"])
        for other in ("spawn_main", "deadpool._child.fork_server"):
            assert (other in ancestors) == (other == sign)

    site.play(story, concurrency=1, executor_options=options)


def test_a_job_may_have_multiprocessing_children(site: Site) -> None:
    async def story() -> None:
        job = await site.run(jobs.add_in_children)
        assert job.meta == {"sum": 6}

    site.play(story, concurrency=1)


def test_django_is_set_up_in_each_process(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("django")
    monkeypatch.setenv("DJANGO_SETTINGS_MODULE", "chancy_django_settings")

    async def story() -> None:
        job = await site.run(jobs.read_setting)
        assert job.meta == {"zone": "Antarctica/Troll", "ready": True}

    site.play(story, concurrency=1)
