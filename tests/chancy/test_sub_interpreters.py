"""Jobs in sub-interpreters, with the limits and the cancelling that need a process to be killed."""

from __future__ import annotations

import asyncio
import logging
import os
import signal
import time

import chancy_jobs as jobs
import chancy_sub_executors as subs
import pytest
from chancy import Queue, QueuedJob, Worker
from chancy.executors.base import Executor
from chancy_site import Site, begun, error_of, eventually
from processes import await_death

from deadpool._chancy import interpreter
from deadpool._chancy.interpreter import check_available
from deadpool.chancy import DeadpoolSubInterpreterExecutor

State = QueuedJob.State
EXECUTOR = "deadpool.chancy.DeadpoolSubInterpreterExecutor"

try:
    check_available("the test")
except ImportError:
    IS_AVAILABLE = False
else:
    IS_AVAILABLE = True

needed = pytest.mark.skipif(not IS_AVAILABLE, reason="needs sub-interpreters")


@pytest.mark.skipif(IS_AVAILABLE, reason="there are sub-interpreters")
def test_without_sub_interpreters_it_says_what_is_needed(
    site: Site, caplog: pytest.LogCaptureFixture
) -> None:
    async def story() -> None:
        await eventually(lambda: caplog.text)
        assert "queue 'default': DeadpoolSubInterpreterExecutor needs Python 3.14" in caplog.text
        assert "or Python 3.13 with the package interpreters-pep-734" in caplog.text
        with pytest.raises(ImportError, match="DeadpoolSubInterpreterExecutor needs"):
            DeadpoolSubInterpreterExecutor(site.worker, Queue("q"))

    caplog.set_level(logging.ERROR)
    site.play(story, executor=EXECUTOR, shutdown_timeout=2)


@pytest.mark.parametrize(
    ("version", "package", "said"),
    [
        ((3, 11, 7), True, "; this is Python 3.11.7"),
        ((3, 12, 1), False, "; this is Python 3.12.1"),
        ((3, 13, 0), False, "; this is Python 3.13.0 without that package"),
        ((3, 13, 0), True, None),
        ((3, 14, 0), False, None),
    ],
)
def test_what_is_needed(
    version: tuple[int, ...], package: bool, said: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(interpreter.sys, "version_info", version)
    monkeypatch.setattr(
        interpreter.importlib.util, "find_spec", lambda _name: object() if package else None
    )
    if said is None:
        check_available("It")
    else:
        with pytest.raises(ImportError) as caught:
            check_available("It")
        assert str(caught.value).endswith(said)


@needed
def test_a_function_a_coroutine_and_an_exception(site: Site) -> None:
    async def story() -> None:
        for function in (jobs.add, jobs.add_later):
            job = await site.run(function, a=1, b=2)
            assert (job.state, job.meta) == (State.SUCCEEDED, {"sum": 3})
        error = error_of(await site.run(jobs.fail, message="no such thing"))
        assert "KeyError: 'no such thing'" in error
        assert "in fail" in error
        assert "UnpicklableError" in error_of(await site.run(jobs.fail_unpicklably))
        assert "pickle" in error_of(await site.run(jobs.return_unpicklable)).lower()
        assert "SystemExit: 3" in error_of(await site.run(jobs.exit_with, code=3))
        await site.run_well()

    site.play(story, executor=EXECUTOR)


@needed
def test_each_process_has_a_sub_interpreter_that_stays(site: Site) -> None:
    async def story() -> None:
        first = (await site.run(subs.where)).meta
        second = (await site.run(subs.where)).meta
        assert first["interpreter"] > 0
        assert first["pid"] != os.getpid()
        assert (first["before"], second["before"]) == (0, 1)
        assert {**first, "before": 1} == second
        third = (await site.run(subs.where)).meta
        assert third["pid"] != first["pid"]
        assert third["before"] == 0

    site.play(
        story, executor=EXECUTOR, concurrency=1, executor_options={"maximum_jobs_per_worker": 2}
    )


@needed
@pytest.mark.parametrize("hold", [jobs.hold_in_c, jobs.hold_in_a_coroutine])
def test_the_time_limit_and_cancelling_kill(site: Site, hold: object) -> None:
    async def story() -> None:
        path = site.file("begun")
        error = error_of(await site.run(hold, jobs.seconds(1), begun=path))
        assert "deadpool.TimeoutError" in error
        await_death(await begun(path))
        path = site.file("again")
        reference = await site.push(hold, begun=path)
        pids = await begun(path)
        await site.chancy.cancel_job(reference)
        await eventually(lambda: len(site.executor) == 0)
        await_death(pids)
        await site.run_well()

    site.play(story, executor=EXECUTOR, concurrency=1)


@needed
def test_the_memory_limit_and_deaths(site: Site) -> None:
    async def story() -> None:
        error = error_of(await site.run(jobs.allocate, jobs.memory(150 * jobs.MIB), mib=300))
        assert "MemoryLimitError" in error
        error = error_of(await site.run(jobs.kill_itself, number=signal.SIGKILL))
        assert "exitcode -9 (Killed)" in error
        error = error_of(await site.run(jobs.segfault))
        assert "Segmentation fault" in error
        assert "in segfault" in error
        await site.run_well()

    site.play(story, executor=EXECUTOR, concurrency=1)


@needed
def test_the_cooperative_interface(site: Site) -> None:
    async def story() -> None:
        error = error_of(await site.run(subs.checkpoints, jobs.seconds(1)))
        assert "TimeoutError: Job timed out." in error
        assert "in checkpoints" in error
        await site.run_well()

    options = {"time_limit_grace_seconds": 30}
    site.play(story, executor=EXECUTOR, concurrency=1, executor_options=options)


@needed
def test_what_can_be_extended(site: Site) -> None:
    async def story() -> None:
        job = await site.run(jobs.add, a=1, b=2)
        assert job.meta == {"sum": 3, "prepared": ["well"]}

    site.play(story, executor="chancy_sub_executors.Extended", concurrency=1)


@needed
def test_a_set_up_that_raises_fails_the_job_and_says_why(site: Site) -> None:
    async def story() -> None:
        error = error_of(await site.run(jobs.nothing))
        assert "RuntimeError: nothing is there to be set up with" in error

    site.play(story, executor="chancy_sub_executors.Unprepared", concurrency=1)


@needed
def test_a_set_up_that_hangs_is_given_up(site: Site) -> None:
    async def story() -> None:
        error = error_of(await site.run(jobs.nothing))
        assert "came to nothing, the last because a worker was not ready in time" in error

    options = {"worker_start_timeout_seconds": 0.5}
    executor = "chancy_sub_executors.Unready"
    site.play(story, executor=executor, concurrency=1, executor_options=options, shutdown_timeout=5)


@needed
def test_a_wrapper_that_returns_no_job_fails_it(site: Site) -> None:
    async def story() -> None:
        error = error_of(await site.run(jobs.nothing))
        assert "job_wrapper must return the job first, not <class 'NoneType'>" in error

    site.play(story, executor="chancy_sub_executors.Forgetful", concurrency=1)


@needed
def test_limits_that_are_none_and_what_can_not_be_stored(site: Site) -> None:
    async def story() -> None:
        error = error_of(await site.run(jobs.nothing, jobs.seconds("soon")))  # type: ignore[arg-type]
        assert "the job's TIME limit must be a number of seconds, not 'soon'" in error
        error = error_of(await site.run(jobs.leave, code="float('nan')"))
        assert "the job's meta can't be stored in the database: 'value': it has NaN" in error
        error = error_of(await site.run(jobs.fail_with, code=r"KeyError('a\0b')"))
        assert r"KeyError: 'a\x00b'" in error
        await site.run_well()

    site.play(story, executor=EXECUTOR, concurrency=1)


@needed
def test_attempts_and_retries_after_deaths(site: Site) -> None:
    async def story() -> None:
        job = await site.run(jobs.die_until, path=site.file("tries"), times=2)
        assert (job.state, job.attempts, job.errors) == (State.SUCCEEDED, 1, [])
        path = site.file("more-tries")
        job = await site.run(jobs.die_until, attempts=2, path=path, times=3)
        assert (job.state, job.attempts, len(job.errors)) == (State.SUCCEEDED, 2, 1)

    site.play(story, executor=EXECUTOR, executor_options={"retries": 2})


@needed
def test_what_a_job_has_of_this_package(site: Site) -> None:
    async def story() -> None:
        job = await site.run(subs.import_ours)
        assert job.meta == {
            "is_timeout": True,
            "missing": "deadpool has no 'Deadpool' in a sub-interpreter",
        }

    site.play(story, executor=EXECUTOR, concurrency=1)


@needed
def test_a_stop_is_in_time_whatever_the_jobs_do(site: Site) -> None:
    async def main() -> None:
        async with site.application():
            path = site.file("begun")
            async with site.working(executor=EXECUTOR, concurrency=1) as worker:
                await site.push(jobs.hold_in_c, begun=path)
                pids = await begun(path)
                start = time.monotonic()
                assert await worker.stop(timeout=0.5) is False
                assert time.monotonic() - start < 3
                await_death(pids)

    asyncio.run(main())


@needed
def test_the_interface(site: Site) -> None:
    async def main() -> None:
        async with site.application():
            worker = Worker(site.chancy, register_signal_handlers=False)
            async with DeadpoolSubInterpreterExecutor(worker, Queue("q")) as executor:
                assert executor.concurrency == min(32, (os.cpu_count() or 1) + 4)
                assert executor.supports(Executor.Capability.COOPERATIVE_TIME_LIMITS)
                assert executor.supports(Executor.Capability.CANCELLATION)

    asyncio.run(main())
