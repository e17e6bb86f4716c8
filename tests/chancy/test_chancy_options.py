"""Options of queues, and executors that extend ours."""

from __future__ import annotations

import asyncio
import logging
import multiprocessing
import os
import signal

import chancy_jobs as jobs
import pytest
from chancy import Queue, QueuedJob, Worker
from chancy.executors.base import ConcurrentExecutor, Executor
from chancy_site import Site, begun, error_of, eventually

from deadpool.chancy import DeadpoolExecutor

State = QueuedJob.State


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"maximum_job_per_worker": 1}, "there is no option 'maximum_job_per_worker'; there are "),
        ({"maximum_jobs_per_worker": 0}, "maximum_jobs_per_worker must be at least 1"),
        (
            {"maximum_jobs_per_worker": "100"},
            "maximum_jobs_per_worker must be an integer, not '100'",
        ),
        ({"min_workers": -1}, "min_workers must be at least 0"),
        ({"min_workers": 3}, "min_workers must be at most the queue's concurrency, 2, not 3"),
        ({"max_worker_memory_bytes": 1.5}, "max_worker_memory_bytes must be an integer, not 1.5"),
        ({"malloc_trim_rss_memory_threshold_bytes": -1}, "must be at least 0"),
        ({"retries": True}, "retries must be an integer, not True"),
        ({"retries": None}, "retries must be an integer, not None"),
        ({"limit_address_space": 1}, "limit_address_space must be true or false, not 1"),
        ({"time_limit_grace_seconds": "1"}, "must be a number of seconds, not '1'"),
        ({"time_limit_grace_seconds": -1}, "time_limit_grace_seconds must be at least 0"),
        ({"start_method": "forkmaster"}, "start_method must be one of forkserver, spawn, fork"),
        ({"mp_context": 3}, "mp_context must be one of forkserver, spawn, fork, not 3"),
        ({"mp_context": "fork", "start_method": "spawn"}, "mean the same; give one of them"),
    ],
)
def test_wrong_options_are_refused_with_a_sentence_that_chancy_shows(
    site: Site, options: dict[str, object], sentence: str, caplog: pytest.LogCaptureFixture
) -> None:
    async def main() -> None:
        async with (
            site.application(),
            site.working(shutdown_timeout=2, executor_options=options) as worker,
        ):
            await eventually(lambda: "queue 'default': " in caplog.text)
            assert not worker.executors
            with pytest.raises((TypeError, ValueError)) as caught:
                executor_of(site, DeadpoolExecutor, await site.chancy.get_queue("default"))
            assert str(caught.value).startswith("executor_options of queue 'default': ")
            assert sentence in str(caught.value)
            assert str(caught.value) in caplog.text

    caplog.set_level(logging.ERROR)
    asyncio.run(main())


def test_all_options_together(site: Site) -> None:
    options = {
        "maximum_jobs_per_worker": None,
        "min_workers": 1,
        "max_worker_memory_bytes": 1 << 30,
        "malloc_trim_rss_memory_threshold_bytes": 1 << 20,
        "retries": 1,
        "limit_address_space": True,
        "time_limit_grace_seconds": 0.5,
        "start_method": "forkserver",
    }
    site.play(site.run_well, executor_options=options)


def test_a_process_that_has_grown_is_replaced(site: Site) -> None:
    async def story() -> None:
        pids = {(await site.run(jobs.tell)).meta["pid"] for _ in range(3)}
        assert len(pids) == 3

    site.play(story, concurrency=1, executor_options={"max_worker_memory_bytes": 1})


def executor_of(site: Site, cls: type[Executor], queue: Queue, **options: object) -> Executor:
    """Make an executor as Chancy's worker does."""
    worker = Worker(site.chancy, register_signal_handlers=False)
    return cls(worker, queue, **{**queue.executor_options, **options})  # type: ignore[call-arg]


def test_the_interface_of_chancys_executors(site: Site) -> None:
    async def main() -> None:
        async with site.application():
            made = executor_of(site, DeadpoolExecutor, Queue("q", concurrency=3))
            async with made as executor:
                assert isinstance(executor, ConcurrentExecutor)
                assert (executor.concurrency, executor.free_slots, len(executor)) == (3, 3, 0)
                assert executor.get_running_jobs() == []
            wanted = [
                *(Executor.Capability.SYNC_JOBS, Executor.Capability.ASYNC_JOBS),
                *(Executor.Capability.CANCELLATION, Executor.Capability.AUTOMATIC_TIME_LIMITS),
                Executor.Capability.MEMORY_LIMITS,
            ]
            assert all(map(DeadpoolExecutor.supports, wanted))
            # A subclass may have a context to give.
            context = multiprocessing.get_context("spawn")
            made = executor_of(site, DeadpoolExecutor, Queue("q"), mp_context=context)
            async with made as executor:
                assert executor.concurrency == executor.get_default_concurrency()
                assert executor.concurrency == len(os.sched_getaffinity(0))

    asyncio.run(main())


def test_all_that_can_be_extended(site: Site) -> None:
    async def story() -> None:
        job = await site.run(jobs.add, a=2, b=2)
        assert job.meta["sum"] == 42
        prepared, pid = job.meta["wrapped"]
        assert prepared == "well"
        assert pid != os.getpid()
        assert site.executor.colour == "blue"
        path, left = site.file("begun"), site.file("left")
        job = await site.run(
            jobs.clean_up_when_interrupted, jobs.seconds(0.5), begun=path, left=left
        )
        assert "TimeoutError: as the subclass says" in error_of(job)

    options = {"colour": "blue", "time_limit_grace_seconds": 30}
    site.play(story, executor="chancy_executors.Extended", executor_options=options)


def test_a_signal_from_outside_interrupts_a_job(site: Site) -> None:
    async def story() -> None:
        path, left = site.file("begun"), site.file("left")
        reference = await site.push(jobs.clean_up_when_interrupted, begun=path, left=left)
        (pid,) = await begun(path)
        os.kill(pid, signal.SIGUSR1)
        (job,) = await site.end(reference)
        assert "CancelledError: the job was interrupted" in error_of(job)
        # Between jobs it means nothing.
        os.kill(pid, signal.SIGUSR1)
        assert (await site.run(jobs.tell)).meta["pid"] == pid

    site.play(story, concurrency=1)


def test_a_wrapper_that_was_written_for_chancys_process_executor(site: Site) -> None:
    site.play(site.run_well, executor="chancy_executors.FromProcessExecutor")


def test_a_wrapper_that_returns_no_pair_fails_the_job(site: Site) -> None:
    async def story() -> None:
        error = error_of(await site.run(jobs.nothing))
        assert "job_wrapper must return the job and its result" in error
        await eventually(lambda: len(site.executor) == 0)

    site.play(story, executor="chancy_executors.Forgetful")


def test_a_set_up_that_raises_fails_the_job_and_says_why(site: Site) -> None:
    async def story() -> None:
        for _ in range(2):
            error = error_of(await site.run(jobs.nothing))
            assert "RuntimeError: nothing is there to be set up with" in error

    site.play(story, executor="chancy_executors.Unprepared", concurrency=1)
