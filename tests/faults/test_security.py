"""What others could get hold of: descriptors, shared memory, the file system, the parent's memory."""

from __future__ import annotations

import fcntl
import os
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import tasks
from pools import MakePool
from processes import run_script, tree

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


@pytest.fixture
def _gives_nothing() -> Iterator[None]:
    """Whatever the one who runs the tests has left open is not for those who are forked here."""
    inheritable = inheritable_of_self()
    for fd in inheritable:
        os.set_inheritable(fd, False)
    yield
    for fd in inheritable:
        os.set_inheritable(fd, True)


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


@pytest.mark.usefixtures("_gives_nothing")
def test_everything_a_worker_has_is_closed_by_an_exec(
    make_pool: MakePool, start_method: str
) -> None:
    pool = make_pool(mp_context=start_method)
    assert pool.submit(inheritable_of_self).result(20) == []


@pytest.mark.usefixtures("_gives_nothing")
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
    assert any("deadpool" in what for what in seals)
    for what, seal in seals.items():
        if "deadpool" in what:
            assert seal & (SEAL_SEAL | SEAL_SHRINK | SEAL_GROW) == 7
            assert what.endswith("(deleted)")
    for maps in (pool.submit(maps_of_self).result(20), maps_of_self()):
        assert "deadpool" not in maps.replace("/memfd:deadpool", "").replace(str(PACKAGE), "")


def sockets_with_paths() -> dict[str, str]:
    """Return the paths of all UNIX sockets that have one, abstract ones too, by inode."""
    lines = [line.split() for line in Path("/proc/net/unix").read_text().splitlines()[1:]]
    return {line[6]: line[7] for line in lines if len(line) > 7}


def test_nothing_is_on_the_file_system(make_pool: MakePool, start_method: str) -> None:
    pool = make_pool(2, mp_context=start_method)
    pool.submit(tasks.nothing).result()
    paths = sockets_with_paths()
    for pid in tree(os.getpid()) | {os.getpid()}:
        for entry in Path(f"/proc/{pid}/fd").iterdir():
            try:
                target = str(entry.readlink())
            except OSError:
                continue
            kind, _, inode = target.partition(":[")
            # Nobody could open it by its path.
            assert kind != "socket" or inode.rstrip("]") not in paths, (target, pid)
            assert "deadpool" not in target or target.startswith("/memfd:"), target
    assert [path for path in Path("/dev/shm").iterdir() if "deadpool" in path.name] == []


def test_a_socket_with_a_path_would_be_seen() -> None:
    with socket.socket(socket.AF_UNIX) as listening:
        listening.bind(b"\0deadpool-test-%d" % os.getpid())
        inode = os.fstat(listening.fileno()).st_ino
        assert f"@deadpool-test-{os.getpid()}" == sockets_with_paths()[str(inode)]


@pytest.mark.parametrize("length", [1 << 24, 1 << 31, 1 << 40, (1 << 63) - 1, (1 << 64) - 1])
def test_a_length_in_a_header_allocates_nothing(tmp_path: Path, length: int) -> None:
    out, _ = run_script(
        tmp_path,
        f"""
        import resource, strikes
        pool = deadpool.Deadpool(1)
        pool.submit(tasks.nothing).result()
        size = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
        # An allocation beyond this would end the process.
        resource.setrlimit(resource.RLIMIT_AS, (size + (12 << 20), -1))
        future = pool.submit(strikes.claim_length, {length}, here / "begun")
        while not (here / "begun").exists():
            time.sleep(0.001)
        # The supervisor has read as much as there is.
        assert pool.get_statistics()["tasks_launched"] == 2
        time.sleep(0.2)
        (here / "begun").unlink()
        future.exception()
        print(pool.submit(tasks.add, 1, 1).result())
        pool.shutdown()
        """,
    )
    assert out == "2\n"
