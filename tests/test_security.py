"""What others could get hold of: descriptors, shared memory, the file system, the parent's memory."""

from __future__ import annotations

import fcntl
import os
import resource
import struct
import subprocess
import sys
from pathlib import Path

import pytest
import strikes
import tasks
from pools import MakePool
from processes import stat, tree

import deadpool

PACKAGE = Path(deadpool.__file__).parent

# linux/fcntl.h, which Python's module has in part.
SEAL_SEAL, SEAL_SHRINK, SEAL_GROW = 1, 2, 4


def descriptors_of_self() -> dict[int, str]:
    """Return what this process has open, by number; run in a worker."""
    found = {}
    for entry in Path("/proc/self/fd").iterdir():
        try:
            found[int(entry.name)] = str(entry.readlink())
        except FileNotFoundError:
            continue
    return found


def inheritable_of_self() -> list[int]:
    return [
        fd
        for fd, what in descriptors_of_self().items()
        if fd > 2 and not what.startswith("/proc/") and os.get_inheritable(fd)
    ]


def maps_of_self() -> str:
    """Return the files that are mapped as shared memory."""
    lines = Path("/proc/self/maps").read_text().splitlines()
    return "\n".join(line for line in lines if line.split()[1].endswith("s"))


def seals_of_self() -> dict[str, int]:
    seals = {}
    for fd, what in descriptors_of_self().items():
        if "memfd:" in what:
            seals[what] = fcntl.fcntl(fd, fcntl.F_GET_SEALS)
    return seals


def seen_by_child() -> str:
    """Return what a program that a task starts without care for descriptors has open."""
    code = "import os; print(sorted(os.listdir('/proc/self/fd')))"
    command = [sys.executable, "-S", "-c", code]
    return subprocess.run(
        command, check=True, capture_output=True, text=True, close_fds=False
    ).stdout


@pytest.mark.parametrize("method", ["forkserver", "spawn"])
def test_none_of_the_parents_descriptors_get_into_a_worker(
    make_pool: MakePool, method: str, tmp_path: Path
) -> None:
    secret = tmp_path / "secret"
    secret.touch()
    with secret.open() as file:
        os.set_inheritable(file.fileno(), True)
        pool = make_pool(mp_context=method)
        found = pool.submit(descriptors_of_self).result(20)
    assert str(secret) not in found.values()


def test_a_fork_has_what_its_parent_has_but_for_the_supervisors_own(make_pool: MakePool) -> None:
    others = [make_pool() for _ in range(3)]
    for other in others:
        other.submit(tasks.nothing).result()
    pool = make_pool(mp_context="fork")
    found = pool.submit(descriptors_of_self).result(20)
    # One page is its own; it has none of the other workers of its own pool.
    second = make_pool(2, mp_context="fork")
    both = [second.submit(descriptors_of_self).result(20) for _ in range(2)]
    assert all(any("memfd" in what for what in it.values()) for it in [found, *both])


def test_everything_a_worker_has_is_closed_by_an_exec(
    make_pool: MakePool, start_method: str
) -> None:
    pool = make_pool(mp_context=start_method)
    assert pool.submit(inheritable_of_self).result(20) == []


def test_a_program_that_a_task_starts_gets_nothing(make_pool: MakePool, start_method: str) -> None:
    pool = make_pool(mp_context=start_method)
    # The last is the listing's own.
    assert pool.submit(seen_by_child).result(20) == "['0', '1', '2', '3']\n"


def test_everything_of_the_parent_is_closed_by_an_exec(pool: deadpool.Deadpool) -> None:
    pool.submit(tasks.nothing).result()
    inheritable = inheritable_of_self()
    names = descriptors_of_self()
    ours = ("anon_inode:", "/memfd:deadpool", "socket:")
    assert [fd for fd in inheritable if names.get(fd, "").startswith(ours)] == []


def test_shared_memory_is_sealed_and_has_no_name(make_pool: MakePool, start_method: str) -> None:
    pool = make_pool(mp_context=start_method)
    seals = pool.submit(seals_of_self).result(20)
    assert seals
    for what, seal in seals.items():
        if "deadpool" in what:
            assert seal & (SEAL_SEAL | SEAL_SHRINK | SEAL_GROW) == 7
            assert what.endswith("(deleted)")
    for maps in (pool.submit(maps_of_self).result(20), maps_of_self()):
        assert "deadpool" not in maps.replace("/memfd:deadpool", "").replace(str(PACKAGE), "")


def test_nothing_is_on_the_file_system(make_pool: MakePool, tmp_path: Path) -> None:
    pool = make_pool(2, mp_context="spawn")
    pool.submit(tasks.nothing).result()
    workers = [pid for pid in tree(os.getpid()) if stat(pid)]
    for pid in workers:
        for entry in Path(f"/proc/{pid}/fd").iterdir():
            try:
                target = str(entry.readlink())
            except OSError:
                continue
            # A socket with a path, or a file that others could open.
            assert "deadpool" not in target or target.startswith("/memfd:"), target
    listening = Path("/proc/net/unix").read_text()
    assert "deadpool" not in listening


def claim_length(length: int) -> None:
    """Begin a frame that claims to be so long, and say no more."""
    connection = strikes._connection()
    connection.sendall(struct.pack("<HBBIQ", 0xDEAD, 20, 0, 1, length) + b"part")
    connection.detach()


@pytest.mark.parametrize("length", [1 << 31, 1 << 40, (1 << 63) - 1, (1 << 64) - 1])
def test_a_length_in_a_header_allocates_nothing(pool: deadpool.Deadpool, length: int) -> None:
    pool.submit(tasks.nothing).result()
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    size_before = virtual_bytes()
    pool.submit(claim_length, length).exception(20)
    assert pool.submit(tasks.add, 1, 1).result(20) == 2
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 20_000
    assert virtual_bytes() - size_before < 256 << 20


def virtual_bytes() -> int:
    return int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
