"""Large data: it goes through shared memory, arrives as what it was, and is the receiver's own."""

from __future__ import annotations

import contextlib
import gc
import os
import pickle
import resource
import signal
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tasks
from processes import await_pid, descriptors, eventually

import deadpool

MIB = 1 << 20
LONG_SECONDS = 30.0
# More than a pool keeps segments for.
MANY = 80


class Block:
    """Bytes that are pickled out of band where the pickler can."""

    def __init__(self, data: Any) -> None:
        self.data = data

    def __reduce_ex__(self, protocol: Any) -> Any:
        return Block, (pickle.PickleBuffer(self.data),)


class Fails:
    """Pickled after something large."""

    def __reduce__(self) -> Any:
        raise RuntimeError("will not be pickled")


def numbered(size: int) -> np.ndarray[Any, Any]:
    return np.arange(size // 8, dtype=np.int64)


def add_one(array: np.ndarray[Any, Any]) -> tuple[bool, np.ndarray[Any, Any]]:
    """Write to what came, and return it."""
    writable = array.flags.writeable
    array += 1
    return writable, array


def data_of(block: Block) -> tuple[bool, bytes]:
    view = memoryview(block.data)
    return view.readonly, bytes(view)


def fill(size: int) -> np.ndarray[Any, Any]:
    return np.full(size, size % 251, dtype=np.uint8)


def keep(key: str, value: Any) -> None:
    tasks.remember(key, value)


def sum_of(key: str) -> int:
    return int(tasks.recall(key).sum())


def sum_in_fork(array: np.ndarray[Any, Any], begun: Path, release: Path, result: Path) -> None:
    """Leave a fork behind that looks at the array when the task is long over."""
    if os.fork() == 0:
        begun.touch()
        tasks.await_file(release)
        result.write_text(str(int(array.sum())))
        os.kill(os.getpid(), signal.SIGKILL)
    tasks.await_file(begun)


def die_holding(array: np.ndarray[Any, Any], marker: Path) -> int:
    tasks.die_once(marker)
    return int(array.sum())


def open_all_files() -> None:
    """Leave no descriptor for what comes next."""
    resource.setrlimit(resource.RLIMIT_NOFILE, (64, resource.getrlimit(resource.RLIMIT_NOFILE)[1]))
    files = []
    try:
        while True:
            files.append(os.open("/dev/null", os.O_RDONLY))
    except OSError:
        tasks.remember("files", files)


def close_all_files() -> None:
    for fd in tasks.recall("files"):
        os.close(fd)


def raise_with(size: int) -> None:
    raise ValueError(np.ones(size, dtype=np.uint8))


@pytest.fixture
def few_descriptors() -> Iterator[Callable[[], None]]:
    """Let this process open no file more, from when it is called."""
    limits = resource.getrlimit(resource.RLIMIT_NOFILE)
    opened: list[int] = []

    def open_all() -> None:
        highest = max(int(path.name) for path in Path("/proc/self/fd").iterdir())
        resource.setrlimit(resource.RLIMIT_NOFILE, (highest + 1, limits[1]))
        with contextlib.suppress(OSError):
            while True:
                opened.append(os.open("/dev/null", os.O_RDONLY))

    yield open_all
    resource.setrlimit(resource.RLIMIT_NOFILE, limits)
    for fd in opened:
        os.close(fd)


def test_an_array_is_the_receiver_s_own(start_method: str) -> None:
    sent = numbered(2 * MIB)
    with deadpool.Deadpool(1, mp_context=start_method) as pool:
        for _ in range(5):
            writable, returned = pool.submit(add_one, sent).result()
            assert writable
            assert returned.flags.writeable
            assert (returned == sent + 1).all()
            returned[:] = 0
            assert (sent == numbered(2 * MIB)).all()


@pytest.mark.parametrize("size", [0, 1, 40_000, 131_072, MIB - 1, 3 * MIB + 1, 20 * MIB])
def test_bytes_of_any_size(pool: deadpool.Deadpool, size: int) -> None:
    data = os.urandom(size)
    for _ in range(2):
        assert pool.submit(tasks.identity, data).result() == data
    assert pool.submit(tasks.identity, bytearray(data)).result() == data


def test_buffers_of_any_size_and_kind(pool: deadpool.Deadpool) -> None:
    sizes = [0, 1, 32_767, 32_768, 100_001, MIB + 3, 5 * MIB]
    blocks = [Block(bytearray(os.urandom(size))) for size in sizes]
    blocks += [Block(os.urandom(200_000)), Block(b"")]
    futures = [pool.submit(data_of, block) for block in blocks]
    for block, future in zip(blocks, futures, strict=True):
        assert future.result() == (isinstance(block.data, bytes), bytes(block.data))
    mixed = {"large": os.urandom(300_000), "blocks": [block.data for block in blocks], "small": 1}
    assert pool.submit(tasks.identity, mixed).result() == mixed


def test_arrays_of_any_shape(pool: deadpool.Deadpool) -> None:
    square = numbered(8 * 300 * 300).reshape(300, 300)
    for array in [square, square.T, square[::2], square[:, 1:7], np.asfortranarray(square)]:
        returned = pool.submit(tasks.identity, array).result()
        assert (returned == array).all()
    readonly = square.copy()
    readonly.flags.writeable = False
    assert not pool.submit(tasks.identity, readonly).result().flags.writeable


def test_many_pieces_make_a_large_pickle(pool: deadpool.Deadpool) -> None:
    words = [str(number) * 20 for number in range(60_000)]
    assert pool.submit(tasks.identity, words).result() == words


def test_what_is_kept_does_not_change(pool: deadpool.Deadpool) -> None:
    pool.submit(keep, "kept", numbered(MIB)).result()
    results = [pool.submit(fill, MIB + number).result() for number in range(30)]
    for number in range(30):
        pool.submit(tasks.nothing, np.full(MIB, number, dtype=np.uint8)).result()
    assert pool.submit(sum_of, "kept").result() == int(numbered(MIB).sum())
    for number, result in enumerate(results):
        assert (result == (MIB + number) % 251).all()


def test_more_at_once_than_there_are_segments(make_pool: Any, begun: Path, release: Path) -> None:
    pool = make_pool(1)
    pool.submit(tasks.hold, begun, release)
    await_pid(begun)
    arrays = [np.full(200_000, number, dtype=np.uint8) for number in range(MANY)]
    futures = [pool.submit(tasks.identity, array) for array in arrays]
    before = sum(descriptors().values())
    release.touch()
    for number, future in enumerate(futures):
        assert (future.result() == number).all()
    assert before < 200


def test_a_fork_of_the_task_keeps_what_it_saw(
    make_pool: Any, begun: Path, release: Path, tmp_path: Path
) -> None:
    pool = make_pool(1, daemon=False)
    result = tmp_path / "result"
    # The worker is still there, so that its tree is.
    pool.submit(sum_in_fork, numbered(MIB), begun, release, result).result()
    for number in range(20):
        pool.submit(tasks.nothing, np.full(MIB, number, dtype=np.uint8)).result()
    release.touch()
    eventually(lambda: result.exists() and result.read_text() == str(int(numbered(MIB).sum())))


def test_a_fork_of_the_parent_keeps_what_it_saw(pool: deadpool.Deadpool) -> None:
    result = pool.submit(fill, MIB).result()
    reader, writer = os.pipe()
    go_reader, go_writer = os.pipe()
    pid = os.fork()
    if pid == 0:
        os.read(go_reader, 1)
        os.write(writer, b"1" if (result == MIB % 251).all() else b"0")
        os.kill(os.getpid(), signal.SIGKILL)
    del result
    gc.collect()
    for number in range(20):
        pool.submit(fill, MIB - number).result()
    os.write(go_writer, b"x")
    assert os.read(reader, 1) == b"1"
    os.waitpid(pid, 0)
    for fd in (reader, writer, go_reader, go_writer):
        os.close(fd)


def test_a_retry_gets_it_again(make_pool: Any, tmp_path: Path) -> None:
    pool = make_pool(1)
    array = numbered(MIB)
    future = pool.submit(die_holding, array, tmp_path / "died", deadpool_retries=1)
    assert future.result(LONG_SECONDS) == int(array.sum())


def test_a_killed_worker_leaves_nothing(make_pool: Any, begun: Path) -> None:
    pool = make_pool(1)
    pool.submit(tasks.nothing, numbered(MIB)).result()
    before = sum(descriptors().values())
    for _ in range(10):
        future = pool.submit(tasks.begin_and, begun, tasks.spin, numbered(MIB))
        await_pid(begun)
        future.cancel_and_kill_if_running()
        begun.unlink()
        pool.submit(tasks.nothing, numbered(MIB)).result(LONG_SECONDS)
    eventually(lambda: sum(descriptors().values()) <= before + 16)


def test_what_fails_half_way_leaves_nothing(pool: deadpool.Deadpool) -> None:
    for _ in range(100):
        with pytest.raises(RuntimeError, match="will not be pickled"):
            pool.submit(tasks.identity, [os.urandom(200_000), Fails()]).result()
    assert pool.submit(tasks.identity, b"x" * MIB).result() == b"x" * MIB


def test_a_worker_without_descriptors_fails_the_task_alone(make_pool: Any) -> None:
    pool = make_pool(1)
    pid = pool.submit(tasks.getpid).result()
    pool.submit(open_all_files).result()
    with pytest.raises(OSError, match="too many files are open"):
        pool.submit(tasks.nothing, numbered(MIB)).result(LONG_SECONDS)
    # Its own results need one too; without, they go through the socket.
    assert pool.submit(tasks.identity, 1).result(LONG_SECONDS) == 1
    assert (pool.submit(fill, MIB).result(LONG_SECONDS) == MIB % 251).all()
    pool.submit(close_all_files).result()
    assert pool.submit(add_one, numbered(MIB)).result(LONG_SECONDS)[0]
    assert pool.submit(tasks.getpid).result() == pid


def test_a_parent_without_descriptors(make_pool: Any, few_descriptors: Callable[[], None]) -> None:
    pool = make_pool(1)
    pool.submit(tasks.nothing).result()
    few_descriptors()
    # The argument goes through the socket; the result needs a descriptor, and fails alone.
    assert pool.submit(len, b"x" * MIB).result(LONG_SECONDS) == MIB
    with pytest.raises(OSError, match="too many files are open"):
        pool.submit(fill, MIB).result(LONG_SECONDS)
    assert pool.get_statistics()["tasks_failed"] == 1
    assert pool.submit(tasks.identity, 1).result(LONG_SECONDS) == 1


def test_an_exception_with_large_arguments(pool: deadpool.Deadpool) -> None:
    error = pool.submit(raise_with, MIB).exception()
    assert isinstance(error, ValueError)
    assert (error.args[0] == 1).all()


def test_other_serializers(make_pool: Any) -> None:
    cloudpickle = pytest.importorskip("cloudpickle")
    pool = make_pool(1, serializer=cloudpickle)
    for size in (1000, MIB, 5 * MIB):
        data = os.urandom(size)
        assert pool.submit(lambda data: data[::-1], data).result() == data[::-1]


def test_memory_is_used_again_and_given_back(make_pool: Any) -> None:
    def shared_kib() -> int:
        lines = Path("/proc/self/status").read_text().splitlines()
        return int(next(line for line in lines if line.startswith("RssShmem")).split()[1])

    pool = make_pool(1)
    before = shared_kib()
    for _ in range(20):
        pool.submit(tasks.identity, numbered(8 * MIB)).result()
    # Two arguments and two results at most are there at a time.
    assert shared_kib() - before < 5 * 8 * 1024
    pool.shutdown()
    gc.collect()
    assert shared_kib() - before < 1024


def test_a_memory_limit_counts_what_came(make_pool: Any, begun: Path) -> None:
    pool = make_pool(1)
    future = pool.submit(
        touch_and_spin, numbered(200 * MIB), begun, deadpool_memory_limit_bytes=100 * MIB
    )
    with pytest.raises(deadpool.MemoryLimitError):
        future.result(LONG_SECONDS)


def touch_and_spin(array: np.ndarray[Any, Any], begun: Path) -> None:
    array += 1
    tasks.begin_and(begun, tasks.spin)


def test_segments_have_no_name_and_can_not_shrink(pool: deadpool.Deadpool) -> None:
    result = pool.submit(fill, 3 * MIB).result()
    lines = [
        line for line in Path("/proc/self/maps").read_text().splitlines() if "deadpool-data" in line
    ]
    assert lines
    assert all(line.endswith("(deleted)") and "x" not in line.split()[1] for line in lines)
    assert result.size == 3 * MIB
