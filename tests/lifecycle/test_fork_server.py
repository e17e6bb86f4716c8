"""The fork server, which zygotes come from."""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import resource
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import hostile
import pytest
import tasks
from pools import MakePool
from processes import (
    LONG_SECONDS,
    await_path,
    eventually,
    reap_orphans,
    run_script,
    start_script,
)

import deadpool
from deadpool._start import fork_server

# What a process finds that the main module is run in.
MAIN_COUNTS = """
with open(os.environ["COUNT"], "a") as file:
    file.write(f"{os.getpid()} {__name__}\\n")
"""

shared: list[Any] = []


def keep(*objects: Any) -> None:
    shared.extend(objects)


def send_twice() -> None:
    lock, queue, connection = shared
    with lock:
        queue.put("by a queue")
        connection.send("by a pipe")


def ask_for_a_pool() -> tuple[int, int]:
    with deadpool.Deadpool(1) as pool:
        return pool.submit(os.getpid).result(), os.getpid()


def server_pid() -> int:
    pid = fork_server.server.pid
    assert pid is not None
    return pid


def test_pools_share_one_that_stays(make_pool: MakePool) -> None:
    before = server_pid()
    for _ in range(3):
        pool = make_pool()
        assert pool.submit(tasks.add, 1, 2).result() == 3
        pool.shutdown()
    assert server_pid() == before


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM, signal.SIGSEGV])
def test_one_that_died_is_replaced(make_pool: MakePool, number: int) -> None:
    pool = make_pool()
    worker = pool.submit(os.getpid).result()
    before = server_pid()
    os.kill(before, number)
    assert pool.submit(os.getpid).result() == worker, "pools do not need it any more"
    other = make_pool()
    assert other.submit(tasks.add, 1, 2).result(LONG_SECONDS) == 3
    assert server_pid() != before


@pytest.fixture
def deaf(monkeypatch: pytest.MonkeyPatch) -> int:
    """A fork server that is stopped for good."""
    pid = server_pid()
    os.kill(pid, signal.SIGSTOP)
    send = signal.pidfd_send_signal
    # As if it hung in something that no signal ends.
    monkeypatch.setattr(
        signal,
        "pidfd_send_signal",
        lambda fd, number: None if number == signal.SIGCONT else send(fd, number),
    )
    return pid


def test_one_that_is_stopped_does_not_keep_a_pool_from_ending(
    make_pool: MakePool, deaf: int
) -> None:
    try:
        pool = make_pool()
        future = pool.submit(tasks.add, 1, 2)
        pool.shutdown(wait=False, cancel_futures=True)
        assert future.cancelled()
        pool.shutdown()
    finally:
        os.kill(deaf, signal.SIGCONT)


def test_one_that_never_answers_is_replaced(
    make_pool: MakePool, deaf: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(fork_server, "_SILENT_SECONDS", 0.0)
    pool = make_pool()
    eventually(lambda: fork_server.server._unanswered > 0)
    pool.shutdown(wait=False, cancel_futures=True)
    pool.shutdown()
    assert make_pool().submit(tasks.add, 1, 2).result(LONG_SECONDS) == 3
    assert server_pid() != deaf


def test_what_is_inherited_by_a_process_can_be_an_argument(make_pool: MakePool) -> None:
    context = multiprocessing.get_context("forkserver")
    reader, writer = context.Pipe(duplex=False)
    with reader, writer:
        lock, queue = context.Lock(), context.Queue()
        pool = make_pool(initializer=keep, initargs=(lock, queue, writer))
        pool.submit(send_twice).result()
        assert (queue.get(), reader.recv()) == ("by a queue", "by a pipe")
        queue.close()
        queue.join_thread()


def test_a_worker_has_one_of_its_own_for_its_pools(make_pool: MakePool) -> None:
    pool = make_pool(daemon=False)
    inner, outer = pool.submit(ask_for_a_pool).result()
    assert len({inner, outer, os.getpid()}) == 3


def write_main(path: Path, head: str, body: str) -> Path:
    script = path / "own_script.py"
    lines = "\n".join(f"    {line}" for line in body.strip().splitlines())
    script.write_text(
        f"import os, sys, time, multiprocessing\nimport deadpool\n{head}\n"
        f"if __name__ == '__main__':\n{lines}\n"
    )
    return script


def run_main(path: Path, head: str, body: str) -> tuple[str, str]:
    """Run a program with something at the top of its main module, and return what it printed."""
    script = write_main(path, head, body)
    return run_script(path, f"os.execv(sys.executable, [sys.executable, {str(script)!r}])")


TWO_POOLS = """
for _ in range(2):
    with deadpool.Deadpool(2) as pool:
        assert pool.submit(abs, -1).result() == 1
print("done")
"""


def test_the_main_module_is_imported_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COUNT", str(tmp_path / "count"))
    assert run_main(tmp_path, MAIN_COUNTS, TWO_POOLS) == ("done\n", "")
    names = [line.split()[1] for line in (tmp_path / "count").read_text().splitlines()]
    assert names == ["__main__", "__mp_main__"]


def test_the_main_module_is_left_out_where_that_is_wanted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COUNT", str(tmp_path / "count"))
    body = "multiprocessing.set_forkserver_preload(['decimal', 'no_such_module'])\n" + TWO_POOLS
    assert run_main(tmp_path, MAIN_COUNTS, body) == ("done\n", "")
    names = [line.split()[1] for line in (tmp_path / "count").read_text().splitlines()]
    # By each zygote then.
    assert names == ["__main__", "__mp_main__", "__mp_main__"]


def test_what_the_main_module_prints_is_printed_once(tmp_path: Path) -> None:
    head = "if __name__ != '__main__': print('imported')"
    assert run_main(tmp_path, head, TWO_POOLS) == ("imported\ndone\n", "")


def test_garbage_is_collected_as_usual_when_it_has_started(tmp_path: Path) -> None:
    head = """
import gc
at_import = gc.get_threshold()
"""
    body = """
with deadpool.Deadpool(1) as pool:
    assert pool.submit(eval, "__import__('__main__').at_import").result() > gc.get_threshold()
    assert pool.submit(gc.isenabled).result()
    assert pool.submit(gc.get_threshold).result() == gc.get_threshold()
print("done")
"""
    assert run_main(tmp_path, head, body) == ("done\n", "")


def test_how_the_main_module_wants_garbage_collected_counts(tmp_path: Path) -> None:
    head = """
import gc
gc.disable()
gc.set_threshold(123, 4, 5)
"""
    body = """
with deadpool.Deadpool(1) as pool:
    assert not pool.submit(gc.isenabled).result()
    assert pool.submit(gc.get_threshold).result()[:2] == (123, 4)
print("done")
"""
    assert run_main(tmp_path, head, body) == ("done\n", "")


def test_modules_that_are_asked_for_are_there(tmp_path: Path) -> None:
    body = """
multiprocessing.set_forkserver_preload(['__main__', 'wave'])
with deadpool.Deadpool(1) as pool:
    print(pool.submit(eval, "'wave' in __import__('sys').modules").result())
    """
    assert run_main(tmp_path, "", body) == ("True\n", "")


def test_as_many_modules_may_be_asked_for_as_there_are(tmp_path: Path) -> None:
    body = """
names = [f"no_module_{number:0100}" for number in range(2000)]
multiprocessing.set_forkserver_preload(['__main__', *names, 'wave'])
with deadpool.Deadpool(1) as pool:
    print(pool.submit(eval, "'wave' in __import__('sys').modules").result())
    """
    assert run_main(tmp_path, "", body) == ("True\n", "")


def test_a_main_module_that_cannot_be_imported_is_told_of(tmp_path: Path) -> None:
    head = "if __name__ != '__main__': raise LookupError('not here')"
    body = """
pool = deadpool.Deadpool(1, worker_start_timeout=5)
future = pool.submit(abs, -1)
try:
    future.result()
except (deadpool.ProcessError, deadpool.CancelledError):
    pass
pool.shutdown()
print("done")
    """
    script = write_main(tmp_path, head, body)
    execute = f"os.execv(sys.executable, [sys.executable, {str(script)!r}])"
    with start_script(tmp_path, execute) as process:
        out, err = process.communicate(timeout=LONG_SECONDS)
    assert "LookupError: not here" in err
    assert (process.returncode, out) == (0, "done\n")


def test_a_main_module_whose_import_hangs_does_not_keep_the_program_from_ending(
    tmp_path: Path,
) -> None:
    head = f"""
if __name__ != '__main__':
    open({str(tmp_path / "hanging")!r}, "w").close()
    time.sleep(1000)
"""
    body = f"""
pool = deadpool.Deadpool(2)
future = pool.submit(abs, -1)
while not os.path.exists({str(tmp_path / "hanging")!r}):
    time.sleep(0.01)
pool.shutdown(wait=False, cancel_futures=True)
pool.shutdown()
print("done")
    """
    assert run_main(tmp_path, head, body) == ("done\n", "")


def test_it_goes_with_its_parent(tmp_path: Path) -> None:
    body = """
with deadpool.Deadpool(1) as pool:
    pool.submit(abs, -1).result()
from deadpool._start import fork_server
pid_file = here / "pid"
(here / "new").write_text(str(fork_server.server.pid))
(here / "new").rename(pid_file)
time.sleep(1000)
    """
    with start_script(tmp_path, body) as process:
        pid = int(await_path(tmp_path / "pid"))
        assert pid != process.pid
        process.kill()
        process.wait()
        eventually(lambda: not Path(f"/proc/{pid}/exe").exists(), 5)


def test_a_frozen_program_uses_that_of_multiprocessing(tmp_path: Path) -> None:
    body = """
sys.frozen = True
with deadpool.Deadpool(2) as pool:
    assert list(pool.map(abs, [-1, -2])) == [1, 2]
from deadpool._start import fork_server
print(fork_server.server.pid)
    """
    assert run_main(tmp_path, "", body) == ("None\n", "")


def test_it_starts_before_what_a_pool_needs_is_imported(tmp_path: Path) -> None:
    head = """
from deadpool import Deadpool; from deadpool._start import fork_server
start = fork_server.server._start
def started():
    print("deadpool._start.threads" in sys.modules)
    start()
fork_server.server._start = started
"""
    body = """
with Deadpool(1) as pool:
    print(pool.submit(abs, -1).result())
    """
    assert run_main(tmp_path, head, body) == ("False\n1\n", "")


def test_what_keeps_it_from_starting_is_told_by_the_pool(tmp_path: Path) -> None:
    body = """
import multiprocessing
multiprocessing.set_executable("/nowhere/python")
pool = Deadpool(1)
try:
    pool.submit(abs, -1).result()
except ProcessError as error:
    print("/nowhere/python" in str(error))
multiprocessing.set_executable(sys.executable)
print(pool.submit(abs, -1).result())
    """
    head = "from deadpool import Deadpool, ProcessError\n"
    out, _ = run_main(tmp_path, head, body)
    assert out == "True\n1\n"


def test_one_that_can_not_be_watched_is_not_left_behind(tmp_path: Path) -> None:
    body = """
from deadpool._start import fork_server
import threading
open_pidfd = os.pidfd_open
def refuse(pid):
    raise OSError(24, "no descriptors")
os.pidfd_open = refuse
fork_server.server.start_early()
for thread in threading.enumerate():
    if thread.name == "deadpool-server":
        thread.join()
os.pidfd_open = open_pidfd
print(fork_server.server.pid)
try:
    os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOHANG)
except ChildProcessError:
    print("no child")
with deadpool.Deadpool(1) as pool:
    print(pool.submit(abs, -1).result())
    """
    assert run_main(tmp_path, "", body) == ("None\nno child\n1\n", "")


def test_nobody_is_warned_of_it(tmp_path: Path) -> None:
    body = """
import warnings
warnings.simplefilter("error")
with deadpool.Deadpool(1) as pool:
    pool.submit(abs, -1).result()
if os.fork() == 0:
    sys.exit()
os.wait()
    """
    assert run_main(tmp_path, "", body) == ("", "")


def test_nothing_is_left_in_it_of_pools_that_ended(make_pool: MakePool) -> None:
    pid = server_pid()
    before = len(list(Path(f"/proc/{pid}/fd").iterdir()))
    for _ in range(20):
        pool = make_pool()
        pool.submit(tasks.nothing).result()
        pool.shutdown()
    eventually(lambda: len(list(Path(f"/proc/{pid}/fd").iterdir())) == before)
    children = Path(f"/proc/{pid}/task/{pid}/children")
    eventually(lambda: children.read_text() == "")


def test_one_that_is_stopped_is_continued(make_pool: MakePool) -> None:
    before = server_pid()
    os.kill(before, signal.SIGSTOP)
    assert make_pool().submit(tasks.add, 1, 2).result(LONG_SECONDS) == 3
    assert server_pid() == before


def test_one_that_refuses_again_and_again_is_replaced(make_pool: MakePool) -> None:
    before = server_pid()
    taken = {int(entry.name) for entry in Path(f"/proc/{before}/fd").iterdir()}
    free = [fd for fd in range(len(taken) + 5) if fd not in taken]
    # A request brings four descriptors, and a process that was forked is another.
    resource.prlimit(before, resource.RLIMIT_NOFILE, (free[4], free[4]))
    assert make_pool().submit(tasks.add, 1, 2).result(LONG_SECONDS) == 3
    assert server_pid() != before


def test_a_stopped_server_is_replaced_while_the_pool_lives(
    make_pool: MakePool, deaf: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(fork_server, "_SILENT_SECONDS", 0.0)
        pool = make_pool(worker_start_timeout=0.5)
        eventually(lambda: fork_server.server.pid != deaf)
    # The next one has its time, however busy the machine is.
    eventually(lambda: pool.submit(os.getpid).exception() is None)
    assert server_pid() != deaf


def test_a_zygote_that_is_stopped_is_continued(make_pool: MakePool, start_method: str) -> None:
    pool = make_pool(mp_context=start_method)
    for _ in range(3):
        assert pool.submit(hostile.stop_parent).result(LONG_SECONDS) == "stopped"
        pool.submit(os._exit, 1).exception(LONG_SECONDS)
        assert pool.submit(tasks.add, 1, 2).result(LONG_SECONDS) == 3
    begun = time.monotonic()
    pool.shutdown()
    assert time.monotonic() - begun < 5


def keep_stopped(pid: int, seconds: float) -> None:
    """Stop a process again and again, so that it is stopped after it was told to go on."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        os.kill(pid, signal.SIGSTOP)
        time.sleep(0.001)


def test_a_zygote_that_is_stopped_after_it_was_asked_is_continued(make_pool: MakePool) -> None:
    pool = make_pool(1)
    zygote = pool.submit(os.getppid).result()
    stopper = threading.Thread(target=keep_stopped, args=(zygote, 0.5))
    stopper.start()
    (worker,) = pool.workers()
    assert worker.pid is not None
    os.kill(worker.pid, signal.SIGKILL)
    stopper.join()
    assert pool.submit(os.getppid).result(LONG_SECONDS) == zygote


def test_one_that_is_stopped_after_it_was_asked_is_continued(make_pool: MakePool) -> None:
    stopper = threading.Thread(target=keep_stopped, args=(server_pid(), 0.5))
    stopper.start()
    pool = make_pool(1)
    stopper.join()
    assert pool.submit(tasks.add, 1, 2).result(LONG_SECONDS) == 3


def test_a_zygote_that_stays_stopped_is_replaced(make_pool: MakePool) -> None:
    pool = make_pool(2, worker_start_timeout=0.5)
    zygote = pool.submit(os.getppid).result()
    eventually(lambda: all(worker.state == "idle" for worker in pool.workers()))
    workers = [worker.pid for worker in pool.workers()]
    with kept_stopped(zygote):
        pool.submit(os._exit, 1).exception()
        pool.submit(os._exit, 1).exception()
        eventually(lambda: pool.submit(os.getppid).exception() is None)
        assert pool.submit(os.getppid).result() != zygote
        begun = time.monotonic()
        pool.shutdown()
        assert time.monotonic() - begun < 5
    reap_orphans(pid for pid in workers if pid is not None)


@contextlib.contextmanager
def kept_stopped(pid: int) -> Iterator[None]:
    """Keep a process from running, whoever lets it go on."""
    # What another process traces, and has stopped, SIGCONT does not continue.
    code = """
import ctypes, os, sys
ctypes.CDLL(None).ptrace(16, int(sys.argv[1]), None, None)
os.waitpid(int(sys.argv[1]), 0)
print("stopped", flush=True)
sys.stdin.read()
"""
    command = [sys.executable, "-S", "-c", code, str(pid)]
    pipe = subprocess.PIPE
    with subprocess.Popen(command, stdin=pipe, stdout=pipe, text=True) as tracer:
        assert tracer.stdout is not None
        if tracer.stdout.readline() != "stopped\n":
            pytest.skip("this process may not trace another")
        yield
        tracer.communicate()


def test_what_the_main_module_leaves_running_ends_with_the_parent(tmp_path: Path) -> None:
    head = f"""
import atexit, subprocess, threading
if __name__ != "__main__":
    threading.Thread(target=time.sleep, args=(600,)).start()
    child = subprocess.Popen(["sleep", "600"])
    with open({str(tmp_path / "pids")!r}, "w") as file:
        print(os.getpid(), child.pid, file=file)
    atexit.register(print, "in the server")
"""
    assert run_main(tmp_path, head, TWO_POOLS) == ("done\n", "")
    pids = [int(pid) for pid in (tmp_path / "pids").read_text().split()]
    eventually(lambda: all(not Path(f"/proc/{pid}/exe").exists() for pid in pids), 5)


def test_too_many_descriptors_are_refused_in_words(
    make_pool: MakePool, caplog: pytest.LogCaptureFixture
) -> None:
    context = multiprocessing.get_context("forkserver")
    pipes = [context.Pipe() for _ in range(125)]
    ends = [end for pipe in pipes for end in pipe]
    pool = make_pool(initializer=keep, initargs=ends)
    error = pool.submit(tasks.nothing).exception()
    assert isinstance(error, deadpool.ProcessError)
    assert "240 descriptors at most, not 251" in str(error)
    for end in ends:
        end.close()


def test_a_server_whose_parent_has_ended_already_goes_without_a_word() -> None:
    parent = subprocess.Popen([sys.executable, "-S", "-c", ""])
    parent.wait()
    code = f"from deadpool._child.fork_server import main; main(0, {parent.pid})"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, check=True, timeout=20)
    assert (done.stdout, done.stderr) == (b"", b"")
