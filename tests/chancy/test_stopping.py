"""The end of a worker, and queues that change while it runs."""

from __future__ import annotations

import asyncio
import time

import chancy_jobs as jobs
import pytest
from chancy import QueuedJob
from chancy_site import Site, begun, eventually
from processes import await_death

State = QueuedJob.State


def test_a_stop_lets_jobs_finish(site: Site) -> None:
    async def main() -> None:
        async with site.application():
            path, release = site.file("begun"), site.file("release")
            async with site.working() as worker:
                reference = await site.push(jobs.hold, begun=path, release=release)
                await begun(path)
                stopping = asyncio.create_task(worker.stop())
                await eventually(worker.shutdown_event.is_set)
                jobs.note(release)
                assert await stopping is True
            job = await site.chancy.get_job(reference)
            assert job is not None
            assert job.state is State.SUCCEEDED

    asyncio.run(main())


@pytest.mark.parametrize("hold", [jobs.hold_in_c, jobs.hold_stubbornly, jobs.hold_with_children])
def test_a_stop_is_in_time_whatever_the_jobs_do(site: Site, hold: object) -> None:
    async def main() -> None:
        async with site.application():
            paths = [site.file(name) for name in ("one", "two")]
            async with site.working(concurrency=2) as worker:
                references = [await site.push(hold, begun=path) for path in paths]
                pids = [pid for path in paths for pid in await begun(path)]
                start = time.monotonic()
                assert await worker.stop(timeout=0.5) is False
                assert time.monotonic() - start < 3
                await_death(pids)
            # They are left to be recovered, as Chancy has it.
            states = {job.state for job in await site.chancy.get_jobs(references)}
            assert states == {State.RUNNING}

    asyncio.run(main())


def test_a_stop_is_in_time_while_processes_are_set_up(site: Site) -> None:
    async def main() -> None:
        async with (
            site.application(),
            site.working(concurrency=2, executor="chancy_executors.Unready") as worker,
        ):
            executor = await site.executor_ready()
            await site.push(jobs.nothing)
            await eventually(lambda: len(executor) == 1)
            start = time.monotonic()
            assert await worker.stop(timeout=0.5) is False
            assert time.monotonic() - start < 3
            await eventually(lambda: not executor.pool.workers())

    asyncio.run(main())


def test_a_stop_that_waits_for_a_job_can_be_given_up(site: Site) -> None:
    """A queue whose database fails stops its executor; that must not outlive the worker's stop."""

    async def main() -> None:
        async with site.application():
            path = site.file("begun")
            async with site.working(concurrency=1):
                await site.push(jobs.hold_in_c, begun=path)
                pids = await begun(path)
                stopping = asyncio.create_task(site.executor.stop())
                done, _ = await asyncio.wait({stopping}, timeout=0.2)
                assert not done
                stopping.cancel()
                await asyncio.wait({stopping}, timeout=5)
                assert stopping.cancelled()
                await_death(pids)
                await eventually(lambda: len(site.executor) == 0)

    asyncio.run(main())


def test_the_loop_is_never_held_up(site: Site) -> None:
    async def main() -> None:
        async with site.application():
            paths = [site.file(f"begun-{number}") for number in range(4)]
            async with site.working(concurrency=4) as worker:
                for path in paths:
                    await site.push(jobs.hold_stubbornly, begun=path)
                for path in paths:
                    await begun(path)
                longest, before = 0.0, time.monotonic()
                stopping = asyncio.create_task(worker.stop(timeout=0.2))
                while not stopping.done():
                    await asyncio.sleep(0)
                    longest, before = max(longest, time.monotonic() - before), time.monotonic()
                assert longest < 0.3

    asyncio.run(main())


def test_a_queue_that_is_changed_while_it_runs(site: Site) -> None:
    async def story() -> None:
        path, release = site.file("begun"), site.file("release")
        running = await site.push(jobs.hold, begun=path, release=release)
        await begun(path)
        before = site.executor
        await site.declare(concurrency=3, executor_options={"maximum_jobs_per_worker": 7})
        await eventually(lambda: site.worker["default"].concurrency == 3)
        waiting = await site.push(jobs.nothing)
        # The new executor comes when the old one is drained.
        assert site.executor is before
        jobs.note(release)
        ended = await site.end(running, waiting)
        assert [job.state for job in ended] == [State.SUCCEEDED] * 2
        assert site.executor is not before
        assert site.executor.concurrency == 3
        assert site.executor.free_slots == 3
        assert site.executor.options.maximum_jobs_per_worker == 7
        await eventually(lambda: not before.pool.workers())

    site.play(story, concurrency=1)


def test_a_queue_that_is_paused_and_removed(site: Site) -> None:
    async def story() -> None:
        executor = await site.executor_ready()
        await site.chancy.pause_queue("default")
        await eventually(lambda: site.worker.executors.get("default") not in (None, executor))
        waiting = await site.push(jobs.nothing)
        await site.chancy.resume_queue("default")
        (job,) = await site.end(waiting)
        assert job.state is State.SUCCEEDED
        executor = site.executor
        await site.chancy.delete_queue("default")
        await eventually(lambda: "default" not in site.worker.executors)
        assert not executor.pool.workers()

    site.play(story)


def test_an_idle_process_waits_for_what_the_next_poll_brings(site: Site) -> None:
    async def story() -> None:
        held = await site.push(jobs.hold, jobs.seconds(2), begun=site.file("begun"))
        await begun(site.file("begun"))
        # In another process, which has nothing to do until that one is killed.
        before = (await site.run(jobs.tell)).meta["pid"]
        await site.end(held)
        assert (await site.run(jobs.tell)).meta["pid"] == before

    site.play(story, concurrency=2, polling_interval=20, executor_options={"min_workers": 0})


def test_an_idle_queue_shrinks(site: Site) -> None:
    async def story() -> None:
        await site.run_well()
        await eventually(lambda: not site.executor.pool.workers())
        await site.run_well()

    site.play(story, concurrency=3, executor_options={"min_workers": 0})
