"""One run: a pool, those who use it, the injector, and the reckoning."""

from __future__ import annotations

import contextlib
import faulthandler
import random
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import deadpool

from .actors import Actor, Meddler, Submitter
from .faults import Injector
from .leftovers import Leftovers
from .model import Model
from .work import value

# In how long something must end once the faults are over. The longest task takes 0.4 s, and starts are
# held back for 5 s at most.
BOUNDED_SECONDS = 40.0

# Tasks that a pool must do after the storm.
PROBES = 20

ENDS: dict[str, Callable[[deadpool.Deadpool], None]] = {
    "drain": lambda pool: pool.shutdown(wait=True),
    "cancel waiting": lambda pool: pool.shutdown(wait=True, cancel_futures=True),
    "cancel all": lambda pool: pool.shutdown(wait=False, cancel_futures=True),
    "background": lambda pool: pool.shutdown(wait=False),
    "terminate": lambda pool: pool.terminate_workers(),
    "kill": lambda pool: pool.kill_workers(),
}


@dataclass
class Result:
    """What a run did.

    :param problems: What was wrong; empty if the run was good.
    :param faults: How often each fault was done.
    :param ends: How often tasks ended in which way.
    :param meddling: How often what else was done to the pool.
    """

    seed: int
    method: str
    problems: list[str]
    tasks: int
    seconds: float
    faults: dict[str, int]
    ends: dict[str, int]
    meddling: dict[str, int]
    history: list[str]


@dataclass(frozen=True)
class Plan:
    """What a seed decides beforehand.

    :param end: How the pool is ended.
    :param early: After which share of the tasks, while they are still being submitted; 1 for after
        all have ended, and it was seen that the pool still works.
    """

    workers: int
    options: dict[str, object]
    submitters: int
    pause: float
    fault_pause: float
    end: str
    early: float

    @classmethod
    def draw(cls, seed: int) -> Plan:
        """Draw it."""
        rng = random.Random(f"{seed} plan")
        options: dict[str, object] = {"max_backlog": rng.choice((4, 50, 1000, None))}
        if rng.random() < 0.4:
            options["max_tasks_per_child"] = rng.choice((1, 3, 20))
        if rng.random() < 0.3:
            options["min_workers"] = rng.choice((0, 1))
            options["worker_idle_timeout"] = rng.choice((0, 0.02, 0.2))
        if rng.random() < 0.3:
            options["kill_on_cancel"] = True
        if rng.random() < 0.2:
            options["max_worker_memory_bytes"] = 60_000_000
        return cls(
            workers=rng.randint(1, 4),
            options=options,
            submitters=rng.randint(1, 4),
            pause=rng.choice((0.001, 0.005, 0.02)),
            fault_pause=rng.choice((0.02, 0.05, 0.2)),
            end=rng.choice(list(ENDS)),
            early=rng.choice((1.0, 1.0, rng.random())),
        )


def run(seed: int, tasks: int, method: str, directory: Path) -> Result:
    """Make one run. Blocks until all is over."""
    began = time.monotonic()
    plan = Plan.draw(seed)
    log = directory / "log"
    log.touch()
    model = Model(log, most_workers=plan.workers)
    leftovers = Leftovers()
    pool = deadpool.Deadpool(plan.workers, mp_context=method, **plan.options)  # type: ignore[arg-type]
    injector = Injector(pool, model, plan.fault_pause)
    meddler = Meddler(pool, model, (1, 5))
    share = -(-tasks // plan.submitters)
    submitters = []
    for place in range(plan.submitters):
        numbers = range(place * share, min((place + 1) * share, tasks))
        act = Submitter(pool, model, numbers, plan.pause).act
        submitters.append(Actor(f"submitter-{place}", f"{seed} submitter {place}", act))
    disturbers = [
        Actor("injector", f"{seed} injector", injector.act),
        Actor("meddler", f"{seed} meddler", meddler.act),
    ]
    for actor in disturbers + submitters:
        actor.start()
    problems: list[str] = []
    if plan.early < 1:
        wait_until(lambda: len(model.entries) >= plan.early * tasks or not _any_alive(submitters))
        model.closed = True
        ENDS[plan.end](pool)
        stop(disturbers)
    if not wait_while_going_on(model, lambda: not _any_alive(submitters)):
        problems.append("a submitter is stuck")
    if plan.early == 1:
        # The storm goes on for as long as there is work.
        wait_until(lambda: not model.pending(), 5.0)
        stop(disturbers)
    if not wait_while_going_on(model, lambda: not model.pending()):
        stuck = [f"{entry.number} ({entry.order.kind})" for entry in model.pending()]
        problems.append(f"tasks never ended: {stuck}; workers {pool.workers()}")
        faulthandler.dump_traceback()
    if plan.early == 1 and not problems:
        problems += _does_it_work(pool, model, tasks)
        model.closed = True
        ENDS[plan.end](pool)
    pool.shutdown()
    problems += [
        f"{actor.name}: {actor.error!r}" for actor in disturbers + submitters if actor.error
    ]
    # The callbacks of the last task may be under way.
    wait_until(lambda: all(entry.ends for entry in model.entries), 5.0)
    problems += model.problems(pool.get_statistics())
    ends = model.ends()
    model.entries.clear()
    if model.zygote_killed:
        # With it went who would have found what a worker leaves behind that is killed next.
        meddler.counts["orphans of workers without a zygote"] += leftovers.end_orphans()
    problems += leftovers.check()
    return Result(
        seed=seed,
        method=method,
        problems=problems,
        tasks=sum(ends.values()),
        seconds=time.monotonic() - began,
        faults=dict(injector.counts),
        ends=dict(ends),
        meddling={f"shutdown: {plan.end}": 1} | dict(meddler.counts),
        history=injector.history,
    )


def _does_it_work(pool: deadpool.Deadpool, model: Model, number: int) -> list[str]:
    """See whether the pool, left in peace, does what it is for."""
    model.probes = PROBES
    futures = [
        pool.submit(value, str(model.log), number + more, deadpool_retries=3)
        for more in range(PROBES)
    ]
    for more, future in enumerate(futures):
        with contextlib.suppress(Exception):
            if future.result(BOUNDED_SECONDS) == (number + more) ** 2:
                continue
        told = future.exception(0) if future.done() else "nothing"
        return [f"the pool does not work afterwards: {told!r}; workers {pool.workers()}"]
    return []


def wait_until(condition: Callable[[], bool], seconds: float = BOUNDED_SECONDS) -> bool:
    """Wait for something that must come. Return whether it did."""
    deadline = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > deadline:
            return False
        time.sleep(0.002)
    return True


def wait_while_going_on(model: Model, is_over: Callable[[], bool]) -> bool:
    """Wait as long as now and then a task comes or ends. Return whether it is over."""

    def progress() -> tuple[int, int]:
        return len(model.entries), len(model.pending())

    while not is_over():
        before = progress()
        if not wait_until(lambda before=before: is_over() or progress() != before):  # type: ignore[misc]
            return False
    return True


def stop(actors: list[Actor]) -> None:
    """Have actors finish what they are at."""
    for actor in actors:
        actor.stopped.set()
    for actor in actors:
        actor.join()


def _any_alive(actors: list[Actor]) -> bool:
    return any(actor.is_alive() for actor in actors)
