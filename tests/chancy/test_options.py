"""Options of queues, and executors that extend ours."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import multiprocessing
import os
import resource
import signal
import time
from collections.abc import Iterator

import chancy_executors
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
        ({"retries": 1 << 32}, "retries must be at least 0 and less than 2**32, not 4294967296"),
        ({"maximum_jobs_per_worker": 1 << 63}, "must be at least 1 and less than 2**63, not "),
        ({"max_worker_memory_bytes": 1 << 63}, "must be at least 1 and less than 2**63, not "),
        ({"malloc_trim_rss_memory_threshold_bytes": 1 << 63}, "less than 2**63, not "),
        ({"min_workers": 1 << 63}, "min_workers must be at least 0 and less than 2**63, not "),
        (
            {"time_limit_grace_seconds": 1e300},
            "must be at least 0 and at most 1e+09 seconds, not 1000",
        ),
        ({"time_limit_grace_seconds": 10**400}, "time_limit_grace_seconds must be at least 0 and "),
        (
            {"worker_start_timeout_seconds": 0},
            "must be more than 0 and at most 1e+09 seconds, not 0",
        ),
        ({"worker_start_timeout_seconds": None}, "must be a number of seconds, not None"),
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
        "worker_start_timeout_seconds": 60,
        "start_method": "forkserver",
    }
    site.play(site.run_well, executor_options=options)


def test_the_largest_options_that_are_taken_fail_no_job(site: Site) -> None:
    async def story() -> None:
        (job,) = await site.end(await site.push(jobs.nothing, jobs.seconds(10**9)))
        assert job.state is State.SUCCEEDED
        await site.run_well()

    options = {
        "maximum_jobs_per_worker": (1 << 63) - 1,
        "min_workers": 2,
        "max_worker_memory_bytes": (1 << 63) - 1,
        "malloc_trim_rss_memory_threshold_bytes": (1 << 63) - 1,
        "retries": (1 << 32) - 1,
        "limit_address_space": True,
        "time_limit_grace_seconds": 10**9,
        "worker_start_timeout_seconds": 10**9,
    }
    site.play(story, executor_options=options)


@contextlib.contextmanager
def descriptors(most: int) -> Iterator[None]:
    """Let this process have no more descriptors, whatever it may have."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(soft, most), hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


@pytest.mark.parametrize("concurrency", [0, -1, 100_000])
def test_a_concurrency_that_can_not_be_had_is_refused(
    site: Site, concurrency: int, caplog: pytest.LogCaptureFixture
) -> None:
    async def main() -> None:
        async with site.application():
            async with site.working(concurrency=concurrency) as worker:
                await eventually(lambda: "queue 'default': " in caplog.text)
                assert not worker.executors
                start = time.monotonic()
                # Whether it is a clean one is up to Chancy, which at times misses that its task for
                # the queues was cancelled while that asked the database.
                await worker.stop(timeout=2)
                assert time.monotonic() - start < 4
            (record,) = [record for record in caplog.records if record.name == "chancy.tests"]
            # Others say that the queue's task has failed, and its connection to the database.
            assert len(caplog.records) < 5
            if concurrency < 1:
                sentence = f"queue 'default': concurrency must be at least 1, not {concurrency}"
                assert record.message == sentence
            else:
                assert "concurrency 100000 needs 400000 descriptors" in record.message
                assert "this process may open 1000 (RLIMIT_NOFILE), of which 64 " in record.message
                assert record.message.endswith("; 234 is the most there is room for")

    caplog.set_level(logging.WARNING)
    with descriptors(1000):
        asyncio.run(main())


def test_queues_share_the_descriptors(site: Site) -> None:
    async def main() -> None:
        async with site.application():
            worker = Worker(site.chancy, register_signal_handlers=False)
            async with DeadpoolExecutor(worker, Queue("a", concurrency=25)) as executor:
                worker.executors["a"] = executor
                for number, cls in ((35, DeadpoolExecutor), (18, chancy_executors.Spawning)):
                    taken = rf"^queue 'b': .*, of which 164 are .*; {number - 1} is the most"
                    with pytest.raises(ValueError, match=taken):
                        cls(worker, Queue("b", concurrency=number))
                async with chancy_executors.Spawning(worker, Queue("b", concurrency=2)):
                    pass

    with descriptors(303):
        asyncio.run(main())


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
        assert (job.meta["colour"], job.meta["result"]) == ("blue", 42)
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


@pytest.mark.parametrize(
    ("returned", "sentence"),
    [
        ("None", "job_wrapper must return the job and its result, not <class 'NoneType'>"),
        ("(None, 3)", "job_wrapper must return the job first, not <class 'NoneType'>"),
        ("(3, job)", "job_wrapper must return the job first, not <class 'int'>"),
        ("(job,)", "job_wrapper must return the job and its result, not <class 'tuple'>"),
        ("[job, 3]", "job_wrapper must return the job and its result, not <class 'list'>"),
    ],
)
def test_a_wrapper_that_returns_no_pair_fails_the_job(
    site: Site, returned: str, sentence: str
) -> None:
    async def story() -> None:
        job = await site.run(jobs.nothing, attempts=2, returned=returned)
        assert (job.state, job.attempts) == (State.FAILED, 2)
        assert [sentence in error["traceback"] for error in job.errors] == [True, True]
        await eventually(lambda: len(site.executor) == 0)
        # The queue goes on, and so do updates.
        job = await site.run(jobs.nothing, returned="(job, 3)")
        assert job.state is State.SUCCEEDED

    site.play(story, executor="chancy_executors.Forgetful")


def test_a_set_up_that_raises_fails_the_job_and_says_why(site: Site) -> None:
    async def story() -> None:
        for _ in range(2):
            error = error_of(await site.run(jobs.nothing))
            assert "RuntimeError: nothing is there to be set up with" in error

    site.play(story, executor="chancy_executors.Unprepared", concurrency=1)


def test_a_refused_queue_ends_a_worker_that_waits_for_its_end(site: Site) -> None:
    """As Chancy has it with any executor that can't be made, and as its command line does."""

    async def main() -> None:
        async with site.application(), site.working(shutdown_timeout=2) as worker:
            waiting = asyncio.create_task(worker.wait_for_shutdown())
            await site.run_well()
            await site.declare(executor_options={"retries": -1})
            with pytest.raises(ValueError, match="executor_options of queue 'default': retries"):
                await waiting

    asyncio.run(main())


def test_a_refused_queue_runs_when_it_is_declared_again(
    site: Site, caplog: pytest.LogCaptureFixture
) -> None:
    """With a worker that is started then; one that goes on has to see it deleted before."""
    right = {"executor_options": {"retries": 1}}

    async def main() -> None:
        async with site.application():
            wrong = {"executor_options": {"retries": -1}}
            async with site.working(shutdown_timeout=2, **wrong) as worker:
                await eventually(lambda: "retries must be" in caplog.text)
                await site.declare(**right)
                await eventually(lambda: worker["default"].executor_options == {"retries": 1})
                assert not worker.executors
                await site.chancy.delete_queue("default")
                await eventually(lambda: "default" not in worker)
                await site.declare(**right)
                await site.run_well()
            await site.declare(**wrong)
            async with site.working(**right):
                await site.run_well()

    caplog.set_level(logging.ERROR)
    asyncio.run(main())
