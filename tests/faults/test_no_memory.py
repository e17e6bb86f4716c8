"""Memory that can't be had is a MemoryError, in the parent and in workers, and ends no process."""

from __future__ import annotations

from pathlib import Path

import pytest
import tasks
from pools import MakePool
from processes import run_script


@pytest.mark.parametrize("serializer", ["pickle", "own"])
def test_a_call_that_there_is_no_memory_for(tmp_path: Path, serializer: str) -> None:
    out, _ = run_script(
        tmp_path,
        f"""
        import resource
        chosen = dict(serializer=OwnPickle) if {serializer!r} == "own" else dict()
        pool = deadpool.Deadpool(1, **chosen)
        pool.submit(tasks.nothing).result()
        data = bytes(200 << 20)
        size = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
        resource.setrlimit(resource.RLIMIT_AS, (size + (50 << 20), -1))
        for _ in range(3):
            try:
                error = pool.submit(len, data).exception(20)
            except MemoryError as raised:
                error = raised
            print(type(error).__name__)
        print(pool.submit(tasks.add, 1, 1).result(20))
        pool.shutdown()
        """,
        head="""
        import pickle
        class OwnPickle:
            def dumps(value):
                return pickle.dumps(value)
            loads = pickle.loads
        """,
    )
    assert out == "MemoryError\n" * 3 + "2\n"


@pytest.mark.parametrize("kind", ["bytes", "bytearray", "exception"])
def test_a_result_that_a_worker_has_no_memory_for(make_pool: MakePool, kind: str) -> None:
    pool = make_pool()
    pid = pool.submit(tasks.getpid).result(20)
    error = pool.submit(tasks.give_back_without_memory, kind, 200 << 20, 50 << 20).exception(20)
    assert isinstance(error, MemoryError) or "MemoryError" in str(error)
    # The same worker goes on.
    assert pool.submit(tasks.getpid).result(20) == pid


def test_arguments_that_a_worker_has_no_memory_for(make_pool: MakePool) -> None:
    pool = make_pool()
    pid = pool.submit(tasks.limit_address_space, 50 << 20).result(20)
    error = pool.submit(len, bytes(200 << 20)).exception(20)
    assert isinstance(error, MemoryError)
    assert pool.submit(tasks.getpid).result(20) == pid
