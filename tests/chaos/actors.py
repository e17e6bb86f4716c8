"""Those who use the pool: they submit, give up, look, clear and resize."""

from __future__ import annotations

import contextlib
import random
import signal
import threading
import time
from collections import Counter
from collections.abc import Callable

import deadpool

from . import work
from .model import Entry, Model


class Actor(threading.Thread):
    """A thread with dice of its own, so that what it decides does not hang on the others.

    :param seed: Of its dice.
    :param act: Called again and again until it returns false or the actor is told to stop.
    """

    def __init__(self, name: str, seed: str, act: Callable[[random.Random], bool]) -> None:
        super().__init__(name=f"chaos-{name}", daemon=True)
        self._rng = random.Random(seed)
        self._act = act
        self.stopped = threading.Event()
        self.error: BaseException | None = None

    def run(self) -> None:
        try:
            while not self.stopped.is_set() and self._act(self._rng):
                pass
        except BaseException as error:
            self.error = error


class Submitter:
    """Submits its share of the tasks.

    :param numbers: Of the tasks.
    :param pause: The longest between two tasks, in seconds.
    """

    def __init__(self, pool: deadpool.Deadpool, model: Model, numbers: range, pause: float) -> None:
        self._pool = pool
        self._model = model
        self._numbers = iter(numbers)
        self._pause = pause

    def act(self, rng: random.Random) -> bool:
        """Submit one task. Return whether there are more."""
        number = next(self._numbers, None)
        if number is None:
            return False
        order = work.draw(rng, number, str(self._model.log))
        manner = rng.random()
        if rng.random() < 0.3:
            time.sleep(rng.uniform(0, self._pause))
        try:
            future = self._pool.submit(order.function, *order.arguments, **order.options)
        except deadpool.PoolClosed:
            return False
        entry = self._model.enter(number, order, future)
        if manner < 0.03:
            future.add_done_callback(_fail)
        elif manner < 0.06:
            future.add_done_callback(lambda _: time.sleep(0.002))
        elif manner < 0.08:
            with contextlib.suppress(Exception):
                future.exception(0.05)
        elif manner < 0.1:
            self._give_up(entry, rng)
        return True

    @staticmethod
    def _give_up(entry: Entry, rng: random.Random) -> None:
        entry.given_up = True
        if rng.random() < 0.5:
            entry.future.cancel()
        else:
            entry.future.cancel_and_kill_if_running()


def _fail(_future: object) -> None:
    raise work.Refusal("a done-callback")


class Meddler:
    """Does everything else that a program may do to a pool that works.

    :param sizes: Between which it resizes.
    """

    def __init__(self, pool: deadpool.Deadpool, model: Model, sizes: tuple[int, int]) -> None:
        self._pool = pool
        self._model = model
        self._sizes = sizes
        self.counts: Counter[str] = Counter()

    def act(self, rng: random.Random) -> bool:
        """Do one thing after a while."""
        time.sleep(rng.expovariate(1 / 0.02))
        name = rng.choices(
            ["cancel", "kill", "terminate", "clear", "resize", "look", "count"],
            [4, 4, 2, 1, 1, 2, 2],
        )[0]
        pick = rng.random()
        self.counts[name] += 1
        if name in ("cancel", "kill", "terminate"):
            self._give_up(name, pick)
        elif name == "clear":
            self._pool.clear_workers()
        elif name == "resize":
            size = self._sizes[0] + int(pick * (self._sizes[1] - self._sizes[0] + 1))
            self._model.most_workers = max(self._model.most_workers, size)
            self._pool.resize(size)
        elif name == "look":
            self._pool.workers()
        else:
            self._pool.get_statistics()
        return True

    def _give_up(self, name: str, pick: float) -> None:
        pending = self._model.pending()
        if not pending:
            return
        # The early ones are those that run.
        entry = pending[int(pick * pick * len(pending))]
        entry.given_up = True
        if name == "cancel":
            entry.future.cancel()
        elif name == "kill":
            entry.future.cancel_and_kill_if_running()
        else:
            entry.future.cancel_and_kill_if_running(signal.SIGTERM)
