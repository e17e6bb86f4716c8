"""The types of ``Deadpool``, as a program has them; checked and never run.

A line that must be refused says so with the code of each checker; one that is not refused is an error.
"""

from __future__ import annotations

import asyncio
import concurrent.futures
import functools
import pickle
from collections.abc import Iterator

from typing_extensions import assert_type

import deadpool


def count(path: str, limit: int = 10, *, strict: bool = False) -> int:
    return len(path) + limit + strict


def set_up(name: str, port: int) -> None:
    print(name, port)


exe = deadpool.Deadpool(2, initializer=set_up, initargs=("name", 80))

# submit keeps the function's parameters and its result.
assert_type(exe.submit(count, "path"), deadpool.Future[int])
assert_type(exe.submit(count, "path", 3, strict=True), deadpool.Future[int])
assert_type(exe.submit(count, "path").result(), int)
assert_type(exe.submit(count, "path").pid, "int | None")
exe.submit(count, 3)  # type: ignore[arg-type]  # pyright: ignore[reportCallIssue, reportArgumentType]
exe.submit(count)  # type: ignore[arg-type, call-arg]  # pyright: ignore[reportCallIssue]
exe.submit(count, "path", depth=3)  # type: ignore[call-arg]  # pyright: ignore[reportCallIssue]

# The pool's own keywords are known, and the arguments beside them are checked.
assert_type(exe.submit(count, "path", deadpool_timeout=3.5), deadpool.Future[int])
assert_type(
    exe.submit(
        count,
        "path",
        3,
        deadpool_timeout=None,
        deadpool_priority=1,
        deadpool_soft_timeout=2,
        deadpool_memory_limit_bytes=1 << 30,
        deadpool_retries=2,
        deadpool_block=False,
    ),
    deadpool.Future[int],
)
exe.submit(count, 3, deadpool_timeout=3)  # type: ignore[arg-type, call-arg]  # pyright: ignore[reportCallIssue]
exe.submit(count, "path", deadpool_timeout="3")  # type: ignore[call-arg]  # pyright: ignore[reportCallIssue]
exe.submit(count, "path", deadpool_timout=3)  # type: ignore[call-arg]  # pyright: ignore[reportCallIssue]

# Keyword arguments of both: a partial takes those of the function.
strictly = functools.partial(count, strict=True)
assert_type(exe.submit(strictly, "path", deadpool_timeout=3), deadpool.Future[int])

# It is an executor of the standard library, and its futures are such futures.
executor: concurrent.futures.Executor = exe
future: concurrent.futures.Future[int] = exe.submit(count, "path")


def done(ended: deadpool.Future[int]) -> None:
    assert_type(ended.result(), int)


exe.submit(count, "path").add_done_callback(done)
exe.submit(count, "path").add_pid_callback(done)
exe.submit(count, "path").add_soft_timeout_callback(done)
for ended in concurrent.futures.as_completed([exe.submit(count, "path")]):
    assert_type(ended.result(), int)

# map, as the standard library has it.
assert_type(exe.map(count, ["one", "two"]), Iterator[int])
assert_type(
    exe.map(count, ["one"], [1], timeout=3, chunksize=2, buffersize=3, deadpool_timeout=1),
    Iterator[int],
)
exe.map(count, ["one"], deadpool_timout=1)  # type: ignore[call-arg]  # pyright: ignore[reportCallIssue]


async def main() -> None:
    assert_type(await exe.asubmit(count, "path"), int)
    assert_type(await exe.asubmit(count, "path", deadpool_timeout=3), int)
    await exe.asubmit(count, 3)  # type: ignore[arg-type]  # pyright: ignore[reportCallIssue, reportArgumentType]
    await exe.asubmit(count, "path", deadpool_timout=3)  # type: ignore[call-arg]  # pyright: ignore[reportCallIssue]
    assert_type(await asyncio.wrap_future(exe.submit(count, "path")), int)


# The constructor.
deadpool.Deadpool(initializer=set_up, initargs=("name", "80"))  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
deadpool.Deadpool(serializer=pickle, on_initializer_error="fail")
deadpool.Deadpool(on_initializer_error="ignore")  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
deadpool.Deadpool(serializer=3)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
deadpool.Deadpool(max_worker=3)  # type: ignore[call-arg]  # pyright: ignore[reportCallIssue]

# What is told of tasks and workers.
assert_type(exe.get_statistics(), dict[str, int])
for worker in exe.workers():
    assert_type(worker.pid, "int | None")
    assert_type(worker.task, "str | None")
try:
    exe.submit(count, "path").result()
except deadpool.TimeoutError as error:
    assert_type(error.stack, "str | None")
except deadpool.ProcessError as error:
    assert_type(error.exitcode, "int | None")
