"""What jobs leave behind that Postgres refuses: it must not keep the ends of others from it."""

from __future__ import annotations

import asyncio
from typing import Any

import chancy_jobs as jobs
import pytest
from chancy import QueuedJob
from chancy.plugin import Plugin
from chancy_site import Site, error_of

from deadpool._chancy.storable import meta_fault, storable_meta

State = QueuedJob.State


async def run_among_others(site: Site, reference: object) -> QueuedJob:
    """Return a job as it is when it has ended, after those that end together with it."""
    others = [await site.push(jobs.add, a=1, b=number) for number in range(4)]
    job, *ended = await site.end(reference, *others)  # type: ignore[arg-type]
    assert [other.meta["sum"] for other in ended] == [1, 2, 3, 4]
    # What would have been refused then would be refused again.
    await site.worker.flush()
    await site.run_well()
    return job


@pytest.mark.parametrize(
    ("code", "text"),
    [
        (r"KeyError('a\0b')", r"KeyError: 'a\x00b'"),
        (r"RuntimeError('a\0b')", r"RuntimeError: a\x00b"),
        (r"RuntimeError('a\ud800b')", r"RuntimeError: a\ud800b"),
        (r"RuntimeError('a\ud83d\ude00b')", r"RuntimeError: a\ud83d\ude00b"),
        (r"RuntimeError('a\U0001f600\u00e9\\u0000b')", "RuntimeError: a\U0001f600\u00e9\\u0000b"),
        ("RuntimeError(float('nan'))", "RuntimeError: nan"),
        ("RuntimeError('begin' + 'x' * (20 << 20) + 'end')", "xend"),
    ],
)
def test_an_error_with_text_that_can_not_be_stored(site: Site, code: str, text: str) -> None:
    async def story() -> None:
        job = await run_among_others(site, await site.push(jobs.fail_with, code=code, attempts=2))
        assert (job.state, job.attempts) == (State.FAILED, 2)
        assert len(job.errors) == 2
        for error in job.errors:
            assert text in error["traceback"]
            assert "in fail_with" in error["traceback"]
            assert len(error["traceback"]) < 1_100_000

    site.play(story)


@pytest.mark.parametrize(
    ("code", "fault"),
    [
        (r"'a\0b'", "'value': it has the character NUL"),
        (r"{'deep': [{'a\0b': 1}]}", "'value': it has the character NUL"),
        (r"'a\ud800b'", "'value': it has half of a surrogate pair"),
        ("float('nan')", "'value': it has NaN, which is no number in JSON"),
        ("[1, -float('inf')]", "'value': it has -Infinity, which is no number in JSON"),
        ("{1, 2}", "'value': Object of type set is not JSON serializable"),
        ("10 ** 5000", "'value': Exceeds the limit"),
        ("context.meta", "'value': Circular reference detected"),
        ("'x' * (65 << 20)", "'value': it takes 65.0 MiB, and 64 are the most"),
    ],
)
def test_meta_that_can_not_be_stored_fails_its_job(site: Site, code: str, fault: str) -> None:
    async def story() -> None:
        job = await run_among_others(site, await site.push(jobs.leave, code=code))
        sentence = f"ValueError: the job's meta can't be stored in the database: {fault}"
        assert sentence in error_of(job)
        assert job.meta == {"before": 1}

    site.play(story)


def test_meta_that_is_nested_deeply() -> None:
    """Such as a plugin could leave: pickle gives up before that."""
    deep: list[Any] = []
    for depth in range(20_000):
        deep = [deep]
        if depth == 400:
            assert meta_fault({"before": 1, "value": deep}) is None
    assert meta_fault({"before": 1, "value": deep}) == "'value': it is nested too deeply"
    assert storable_meta({"before": 1, "value": deep}) == {"before": 1}
    # Nobody makes it anything else than a dictionary, but the database would take it.
    assert meta_fault([1]) is meta_fault(None) is None
    assert meta_fault(deep) == "it is nested too deeply"
    assert storable_meta(deep) == {}


@pytest.mark.parametrize(
    ("code", "value"),
    [
        (r"'a\\u0000b'", r"a\u0000b"),
        (r"'\ud83d\ude00'", "\U0001f600"),
        (r"['\x01\x7f\u00e9\U0001f600', 0.5, None, 10 ** 1000]",
         ["\x01\x7f\u00e9\U0001f600", 0.5, None, 10**1000]),
    ],
)  # fmt: skip
def test_meta_that_can_be_stored_is(site: Site, code: str, value: object) -> None:
    async def story() -> None:
        job = await run_among_others(site, await site.push(jobs.leave, code=code))
        assert (job.state, job.meta) == (State.SUCCEEDED, {"before": 1, "value": value})

    site.play(story)


@pytest.mark.parametrize(
    "code",
    [r"{'traceback': 'a\0b', 'attempt': 0}", r"'a\0b'", "float('nan')", "{1}", "context.errors"],
)
def test_errors_that_a_job_left_itself(site: Site, code: str) -> None:
    async def story() -> None:
        job = await run_among_others(site, await site.push(jobs.leave_errors, code=code))
        assert (job.state, len(job.errors)) == (State.SUCCEEDED, 1)

    site.play(story)


class Observer(Plugin):
    """Remembers how jobs have ended."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: list[tuple[type, str, BaseException | None, object]] = []

    @staticmethod
    def get_identifier() -> str:
        return "tests.observer"

    async def on_job_completed(
        self,
        *,
        worker: object,
        job: QueuedJob,
        exc: BaseException | None = None,
        result: object = None,
    ) -> QueuedJob:
        text = str(job.errors[-1]["traceback"]) if job.errors else ""
        self.seen.append((type(job), text, exc, result))
        return job


def test_what_plugins_see(site: Site) -> None:
    """A job as any other, with the exception as it was raised."""
    observer = Observer()

    async def story() -> None:
        await site.run(jobs.fail_with, code=r"KeyError('a\0b')")
        await site.run(jobs.leave, code="float('nan')")
        await site.run(jobs.add, a=1, b=2)
        failed, unfit, well = observer.seen
        assert failed[0] is unfit[0] is well[0] is QueuedJob
        assert r"KeyError: 'a\x00b'" in failed[1]
        assert isinstance(failed[2], KeyError)
        assert failed[2].args == ("a\0b",)
        assert isinstance(unfit[2], ValueError)
        assert unfit[3] is None
        assert well[1:] == ("", None, 3)

    site.play(story, plugins=[observer], concurrency=1)


def test_meta_that_a_plugin_spoils(site: Site) -> None:
    class Spoiler(Plugin):
        @staticmethod
        def get_identifier() -> str:
            return "tests.spoiler"

        async def on_job_starting(self, *, job: QueuedJob, worker: object) -> QueuedJob:
            if job.func.endswith("fail_with"):
                job.meta["spoilt"] = float("nan")
            return job

    async def story() -> None:
        code = "KeyError('its own error')"
        job = await run_among_others(site, await site.push(jobs.fail_with, code=code))
        assert "KeyError: 'its own error'" in error_of(job)
        assert job.meta == {}

    site.play(story, plugins=[Spoiler()])


def test_the_updates_go_on_while_many_are_refused(site: Site) -> None:
    async def story() -> None:
        bad = [r"'\0'", "float('nan')", r"'\ud800'"] * 10
        references = []
        for code in bad:
            references.append(await site.push(jobs.leave, code=code))
            references.append(await site.push(jobs.nothing))
        ended = await site.end(*references)
        assert {job.state for job in ended[::2]} == {State.FAILED}
        assert {job.state for job in ended[1::2]} == {State.SUCCEEDED}
        assert any(task.get_name() == "updates" for task in asyncio.all_tasks())

    site.play(story)
