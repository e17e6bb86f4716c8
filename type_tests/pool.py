"""The types of ``deadpool.pool.Pool``, as a program has them; checked and never run."""

from __future__ import annotations

import multiprocessing.pool

from typing_extensions import assert_type

import deadpool.pool


def square(number: int) -> float:
    return number * 2.0


with deadpool.pool.Pool(2) as pool:
    assert_type(pool.apply(square, (2,)), float)
    result = pool.apply_async(square, (2,), callback=print, timeout=3)
    assert_type(result.get(1), float)
    assert_type(result.ready(), bool)
    same: multiprocessing.pool.AsyncResult[float] = result
    assert_type(pool.map(square, [1, 2]), list[float])
    assert_type(pool.starmap(square, [(1,), (2,)]), list[float])
    assert_type(pool.map_async(square, [1, 2]).get(), list[float])
    for value in pool.imap(square, range(3)):
        assert_type(value, float)
    assert_type(pool.imap_unordered(square, range(3)).next(timeout=1), float)
    pool.map(square, ["one"])  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    pool.apply_async(square, (2,), timout=3)  # type: ignore[call-arg]  # pyright: ignore[reportCallIssue]
