"""Pickling: what can be sent to a task and back, and serializers of the user's choice."""

from __future__ import annotations

import copyreg
import json
import multiprocessing
import multiprocessing.resource_sharer
import pickle
import threading
import types
import weakref
from typing import Any

import pytest
import tasks

import deadpool

pytestmark = pytest.mark.every_python

LONG_SECONDS = 20.0


class Registered:
    """Pickled by a function that is registered for it."""


class Reentrant:
    """Pickling it sends something through the pool whose pickler is at work."""

    def __init__(self, pool: deadpool.Deadpool) -> None:
        self.pool = pool

    def __reduce__(self) -> Any:
        return tasks.identity, (self.pool.submit(tasks.identity, [1]).result(LONG_SECONDS),)


class FailsToPickle:
    def __reduce__(self) -> Any:
        raise RuntimeError("will not be pickled")


def send(connection: Any, value: Any) -> None:
    connection.send(value)


class OtherSerializer:
    def dumps(self, value: object) -> bytearray:
        return bytearray(b"other" + pickle.dumps(value))

    def loads(self, pickled: bytes) -> Any:
        assert type(pickled) is bytes
        assert pickled.startswith(b"other")
        return pickle.loads(pickled[5:])


class TextSerializer(OtherSerializer):
    def dumps(self, value: object) -> Any:
        return str(value)


@pytest.mark.parametrize(
    "value",
    [
        None,
        [1, {2: (3, "text")}],
        b"",
        b"x" * 4095,
        b"x" * 4096,
        b"x" * 70_000,
        bytearray(b"y" * 1_000_000),
        "z" * 3_000_000,
        list(range(10_000)),
        len,
    ],
    ids=lambda value: f"{type(value).__name__}-{len(value) if hasattr(value, '__len__') else ''}",
)
def test_values_come_back(pool: deadpool.Deadpool, value: Any) -> None:
    for _ in range(2):
        assert pool.submit(tasks.identity, value).result(LONG_SECONDS) == value


def test_connections_can_be_sent(pool: deadpool.Deadpool) -> None:
    receiver, sender = multiprocessing.Pipe(duplex=False)
    with receiver, sender:
        pool.submit(send, sender, "by the worker").result(LONG_SECONDS)
        assert receiver.recv() == "by the worker"
    # Sending a connection has started the thread that hands out descriptors.
    multiprocessing.resource_sharer.stop()


def test_registered_reducers_are_used(pool: deadpool.Deadpool) -> None:
    def echo() -> Any:
        return pool.submit(tasks.identity, Registered()).result(LONG_SECONDS)

    assert type(echo()) is Registered
    try:
        copyreg.pickle(Registered, lambda _: (int, (1,)))
        assert echo() == 1
        copyreg.pickle(Registered, lambda _: (int, (2,)))
        assert echo() == 2
    finally:
        del copyreg.dispatch_table[Registered]
    assert type(echo()) is Registered


def test_pickling_keeps_nothing(pool: deadpool.Deadpool) -> None:
    value = Registered()
    reference = weakref.ref(value)
    pool.submit(tasks.nothing, [value, value]).result(LONG_SECONDS)
    del value
    assert reference() is None


def test_pickling_may_pickle(pool: deadpool.Deadpool) -> None:
    assert pool.submit(tasks.identity, ["text", Reentrant(pool), "text"]).result(LONG_SECONDS) == [
        "text",
        [1],
        "text",
    ]


def test_an_argument_that_cannot_be_pickled(pool: deadpool.Deadpool) -> None:
    future = pool.submit(tasks.identity, ["text", FailsToPickle()])
    with pytest.raises(RuntimeError, match="will not be pickled"):
        future.result(LONG_SECONDS)
    assert pool.submit(tasks.identity, "text").result(LONG_SECONDS) == "text"


def test_a_result_that_cannot_be_pickled(pool: deadpool.Deadpool) -> None:
    error = pool.submit(tasks.lambda_result).exception(LONG_SECONDS)
    assert isinstance(error, (AttributeError, pickle.PicklingError))
    assert "lambda" in str(error)
    assert type(error.__cause__) is deadpool.RemoteTraceback
    error = pool.submit(tasks.return_, threading.Lock).exception(LONG_SECONDS)
    assert type(error) is TypeError
    assert pool.submit(tasks.identity, "text").result(LONG_SECONDS) == "text"


def test_threads_pickle_at_the_same_time(pool_of_two: deadpool.Deadpool) -> None:
    seen: dict[int, list[Any]] = {}

    def send(number: int) -> None:
        values = [[number] * length for length in range(100)]
        futures = [pool_of_two.submit(tasks.identity, value) for value in values]
        seen[number] = [future.result(LONG_SECONDS) for future in futures] == values

    threads = [threading.Thread(target=send, args=[number]) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert seen == dict.fromkeys(range(4), True)


@pytest.mark.parametrize("serializer", [pickle, OtherSerializer()], ids=["pickle", "other"])
def test_a_serializer_of_the_users_choice(make_pool: Any, serializer: Any) -> None:
    pool = make_pool(serializer=serializer)
    assert pool.submit(tasks.identity, [1, "text"]).result(LONG_SECONDS) == [1, "text"]
    error = pool.submit(tasks.raise_, KeyError(1)).exception(LONG_SECONDS)
    assert type(error) is KeyError
    assert error.args == (1,)


@pytest.mark.parametrize(
    "wrong",
    [5, json.dumps, types.SimpleNamespace(dumps=len), types.SimpleNamespace(loads=len, dumps=1)],
)
def test_a_wrong_serializer_is_refused(wrong: Any) -> None:
    with pytest.raises(TypeError, match="serializer must have the functions dumps and loads"):
        deadpool.Deadpool(serializer=wrong)


def test_a_serializer_that_returns_something_else(make_pool: Any) -> None:
    pool = make_pool(serializer=TextSerializer())
    error = pool.submit(tasks.nothing).exception(LONG_SECONDS)
    assert type(error) is TypeError
    assert "serializer.dumps must return bytes" in str(error)
