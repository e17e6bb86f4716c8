"""Functions that workers run. They are imported by name, so they live in a module of their own."""

from __future__ import annotations

import atexit
import builtins
import contextlib
import ctypes
import functools
import itertools
import mmap
import os
import re
import resource
import signal
import struct
import subprocess
import sys
import threading
import time
import weakref
from collections.abc import Callable
from pathlib import Path
from typing import Any

import deadpool

# How often a task looks for a file that the test makes.
LOOK_SECONDS = 0.002

state: dict[str, Any] = {}


def identity(value: Any) -> Any:
    return value


def add(left: Any, right: Any) -> Any:
    return left + right


def echo(*args: Any, **kwargs: Any) -> tuple[tuple[Any, ...], dict[str, Any]]:
    return args, kwargs


def nothing(*_args: Any) -> None:
    pass


def getpid(*_args: Any) -> int:
    return os.getpid()


def sleep(seconds: float) -> float:
    time.sleep(seconds)
    return seconds


def raise_(exception: BaseException) -> None:
    raise exception


def raise_chained() -> None:
    try:
        raise KeyError("inner")
    except KeyError as error:
        raise ValueError("outer", 2) from error


def return_exception() -> Exception:
    return ValueError("a result")


def call(function: Callable[[], Any]) -> Any:
    return function()


def lambda_result() -> Any:
    return lambda: None


# Events between a test and its tasks are files.


def touch(path: Path) -> None:
    """Make a file that holds this process's id."""
    write(path, str(os.getpid()))


def write(path: Path, text: str) -> None:
    """Make a file that is complete as soon as it is there."""
    temporary = path.with_name(f"{path.name}.{os.getpid()}.{threading.get_ident()}")
    temporary.write_text(text)
    temporary.rename(path)


def await_file(path: Path) -> None:
    while not path.exists():
        time.sleep(LOOK_SECONDS)


def hold(begun: Path, release: Path) -> int:
    """Say that the task has begun, and run until it is released."""
    touch(begun)
    await_file(release)
    return os.getpid()


def append(path: Path, line: Any) -> None:
    """Add a line, in one write."""
    fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    os.write(fd, f"{line}\n".encode())
    os.close(fd)


def append_and_hold(log: Path, line: Any, release: Path) -> None:
    append(log, line)
    await_file(release)


def begin_and(begun: Path, function: Callable[..., Any], *args: Any) -> Any:
    touch(begun)
    return function(*args)


# Ways not to end.


def spin() -> None:
    while True:
        pass


def spin_with_signals_blocked() -> None:
    signal.pthread_sigmask(signal.SIG_BLOCK, signal.valid_signals())
    spin()


def backtrack() -> None:
    """Stay in C code that holds the GIL."""
    re.match(r"(a+)+$", "a" * 40 + "b")


def count_in_c() -> None:
    """Stay in C code that holds the GIL and looks for no signals."""
    sum(itertools.repeat(1))


def stop_itself() -> None:
    os.kill(os.getpid(), signal.SIGSTOP)
    time.sleep(3600)


def sleep_without_gil() -> None:
    libc = ctypes.CDLL(None)
    libc.sleep(3600)


def sleep_with_gil() -> None:
    libc = ctypes.PyDLL(None)
    libc.sleep(3600)


def read_for_ever() -> bytes:
    reader, _writer = os.pipe()
    return os.read(reader, 1)


class HangsUnpickling:
    """Unpickling it does not end."""

    def __reduce__(self) -> tuple[Any, ...]:
        return time.sleep, (3600,)


class HangsPickling:
    """Pickling it does not end."""

    def __reduce__(self) -> tuple[Any, ...]:
        time.sleep(3600)
        raise AssertionError


# Ways to die.


def kill_itself(number: int) -> None:
    if signal.getsignal(number) is signal.SIG_IGN:
        # Whoever started the tests may have it ignored, as nohup does.
        signal.signal(number, signal.SIG_DFL)
    os.kill(os.getpid(), number)
    # A signal to oneself may be handled by another thread.
    time.sleep(3600)


def exit_process(code: int) -> None:
    os._exit(code)


def exit_interpreter(code: Any) -> None:
    sys.exit(code)


def segfault() -> None:
    ctypes.string_at(1)


def abort() -> None:
    os.abort()


def die_once(marker: Path) -> str:
    """Die the first time this runs."""
    try:
        marker.touch(exist_ok=False)
    except FileExistsError:
        return "lived"
    os.kill(os.getpid(), signal.SIGKILL)
    raise AssertionError


def count_and_die(log: Path) -> None:
    append(log, os.getpid())
    os.kill(os.getpid(), signal.SIGKILL)


class DiesUnpickling:
    """Unpickling it in a worker kills that."""

    def __reduce__(self) -> tuple[Any, ...]:
        return exit_process, (3,)


class DiesPickling:
    """Pickling it kills the process."""

    def __reduce__(self) -> tuple[Any, ...]:
        os._exit(3)


class FailsPickling:
    def __reduce__(self) -> tuple[Any, ...]:
        raise ZeroDivisionError("can't be pickled")


class FailsUnpickling:
    def __reduce__(self) -> tuple[Any, ...]:
        return fail_unpickling, ()


def fail_unpickling() -> None:
    raise ZeroDivisionError("can't be unpickled")


class FailsUnpicklingInParent:
    """Made in a worker; it can be read there, and not by the parent."""

    def __init__(self) -> None:
        self.maker = os.getpid()

    def __reduce__(self) -> tuple[Any, ...]:
        return _fail_elsewhere, (self.maker,)


def _fail_elsewhere(maker: int) -> Any:
    if os.getpid() != maker:
        raise ZeroDivisionError("not in this process")
    return FailsUnpicklingInParent()


class UnpicklableError(Exception):
    def __init__(self, text: str) -> None:
        super().__init__(text)
        self.extra = lambda: None


class PickyError(Exception):
    """Its constructor does not take what it passes on."""

    def __init__(self, code: int, reason: str) -> None:
        super().__init__(f"{reason} ({code})")
        self.code = code


class UnreadableError(Exception):
    def __reduce__(self) -> tuple[Any, ...]:
        return _unreadable, ()


def _unreadable() -> Any:
    raise RuntimeError("can't be rebuilt")


class OddBaseError(BaseException):
    pass


def raise_unpicklable() -> None:
    raise UnpicklableError("with a lambda")


def raise_picky() -> None:
    raise PickyError(404, "not found")


def raise_unreadable() -> None:
    raise UnreadableError("lost")


def raise_odd_base() -> None:
    raise OddBaseError("odd")


def return_(make: type) -> Any:
    return make()


# Trees of processes.

_SLEEPER = "import time; time.sleep(3600)"


def start_child(begun: Path) -> None:
    child = subprocess.Popen([sys.executable, "-S", "-c", _SLEEPER])
    write(begun, f"{os.getpid()} {child.pid}")
    child.wait()


def start_session(begun: Path) -> None:
    child = subprocess.Popen([sys.executable, "-S", "-c", _SLEEPER], start_new_session=True)
    write(begun, f"{os.getpid()} {child.pid}")
    child.wait()


def start_daemon(begun: Path) -> None:
    """Fork twice, so that the grandchild's parent is gone."""
    reader, writer = os.pipe()
    child = os.fork()
    if child == 0:
        os.setsid()
        grandchild = os.fork()
        if grandchild == 0:
            os.write(writer, b"%d" % os.getpid())
            time.sleep(3600)
        os._exit(0)
    os.waitpid(child, 0)
    write(begun, f"{os.getpid()} {os.read(reader, 20).decode()}")
    time.sleep(3600)


def leave_many(count: int, marks: Path, interval: float) -> None:
    """Start processes that write down the time again and again, and die without them.

    :param marks: A file of so many times of 8 bytes each.
    :param interval: How many seconds each sleeps between two times.
    """
    with marks.open("r+b") as file:
        times = mmap.mmap(file.fileno(), 8 * count)
    for index in range(count):
        if os.fork() == 0:
            while True:
                struct.pack_into("q", times, 8 * index, time.monotonic_ns())
                time.sleep(interval)
    while not all(struct.unpack(f"{count}q", times)):
        time.sleep(0.001)
    os.kill(os.getpid(), signal.SIGKILL)


def start_stopped_child(begun: Path) -> None:
    child = subprocess.Popen([sys.executable, "-S", "-c", _SLEEPER])
    os.kill(child.pid, signal.SIGSTOP)
    write(begun, f"{os.getpid()} {child.pid}")
    child.wait()


def leave_daemon() -> int:
    """Return while a daemon of this task goes on."""
    reader, writer = os.pipe()
    if os.fork() == 0:
        if os.fork() == 0:
            os.write(writer, b"%d" % os.getpid())
            time.sleep(3600)
        os._exit(0)
    os.wait()
    return int(os.read(reader, 20))


def crash_with_child(begun: Path) -> None:
    child = subprocess.Popen([sys.executable, "-S", "-c", _SLEEPER], start_new_session=True)
    write(begun, f"{os.getpid()} {child.pid}")
    os.kill(os.getpid(), signal.SIGKILL)


def return_twice() -> str:
    """Return in the worker and in a fork of it."""
    return "child" if os.fork() == 0 else "worker"


def raise_twice() -> None:
    os.fork()
    raise LookupError("from both")


# Exit handlers and finalizers.


def register_exit_handler(function: Callable[..., None], *args: Any) -> None:
    atexit.register(function, *args)


def handle_exit_and_hang(marker: Path, begun: Path) -> None:
    atexit.register(touch, marker)
    touch(begun)
    time.sleep(3600)


def hang_at_exit(begun: Path) -> None:
    atexit.register(sleep, 3600)
    touch(begun)
    time.sleep(3600)


def handle_exit_holding_gil(marker: Path) -> None:
    atexit.register(touch, marker)
    backtrack()


# Initializers.


def remember(key: str, value: Any) -> None:
    state[key] = value


def recall(key: str) -> Any:
    return state.get(key)


def die_if(marker: Path) -> None:
    if marker.exists():
        os._exit(9)


def raise_if(marker: Path) -> None:
    if marker.exists():
        raise LookupError("the cause is there")


def put_pid(queue: Any) -> None:
    queue.put(os.getpid())
    state["queue"] = queue


def put(value: Any) -> None:
    state["queue"].put(value)


# Memory.


def allocate(size_bytes: int, begun: Path | None = None) -> None:
    state["block"] = b"x" * size_bytes
    if begun is not None:
        touch(begun)
        time.sleep(3600)


def allocate_in_child(size_bytes: int) -> None:
    code = f"import time; block = b'x' * {size_bytes}; time.sleep(3600)"
    subprocess.run([sys.executable, "-S", "-c", code], check=True)


# Soft timeouts.


def clean_up_after(function: Callable[..., Any], *args: Any) -> str:
    try:
        function(*args)
    except deadpool.SoftTimeoutError as error:
        return f"cleaned up after {error}"
    return "ended by itself"


def spin_and_read(seconds: float) -> None:
    """Call the kernel at about the time of the soft timeout."""
    reader, writer = os.pipe()
    try:
        end = time.perf_counter() + seconds
        while time.perf_counter() < end:
            pass
        os.read(reader, 1)
    finally:
        os.close(reader)
        os.close(writer)


def count_soft_timeouts() -> int:
    count = 0
    end = time.monotonic() + 0.5
    while time.monotonic() < end:
        try:
            time.sleep(max(0, end - time.monotonic()))
        except deadpool.SoftTimeoutError:
            count += 1
    return count


def ignore_soft_timeout(begun: Path) -> None:
    with contextlib.suppress(deadpool.SoftTimeoutError):
        time.sleep(3600)
    touch(begun)
    time.sleep(3600)


# Pools inside of tasks.


def sum_in_pool(method: str, numbers: list[int]) -> int:
    with deadpool.Deadpool(max_workers=1, mp_context=method) as pool:
        return sum(pool.map(identity, numbers))


def make_pool() -> None:
    deadpool.Deadpool(max_workers=1)


def environ(name: str) -> str | None:
    return os.environ.get(name)


def print_and_exit(text: str) -> None:
    print(text, end="")
    os._exit(0)


def ignore_sigterm(begun: Path) -> None:
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    touch(begun)
    time.sleep(3600)


def note_sigterm(begun: Path, marker: Path) -> None:
    def handler(_signal: int, _frame: Any) -> None:
        touch(marker)
        os._exit(0)

    signal.signal(signal.SIGTERM, handler)
    touch(begun)
    time.sleep(3600)


def sigint_handler() -> Any:
    return signal.getsignal(signal.SIGINT) == signal.SIG_IGN


def hold_in_pool(begun: Path, release: Path) -> int:
    with deadpool.Deadpool(max_workers=1) as pool:
        return pool.submit(hold, begun, release).result()


def write_garbage() -> None:
    for fd in range(3, 64):
        with contextlib.suppress(OSError):
            if str(Path(f"/proc/self/fd/{fd}").readlink()).startswith("socket:"):
                os.write(fd, b"\xff" * 100)
    time.sleep(3600)


def close_descriptors() -> str:
    os.closerange(3, 1024)
    return "closed"


def beat(path: Path) -> None:
    """Write the time down as long as this runs."""
    while True:
        write(path, str(time.monotonic()))


def write_environ(path: Path, name: str) -> None:
    write(path, str(os.environ.get(name)))


def allocate_and(size_bytes: int, function: Callable[[], Any]) -> Any:
    state["block"] = b"x" * size_bytes
    return function()


def fragment(count: int) -> None:
    """Leave a heap with much that can be given back, and is not, since its top is in use."""
    blocks = [bytes(600) for _ in range(count)]
    _pinned.append(blocks.pop())


_pinned: list[bytes] = []


class Target:
    pass


def leave_a_file(path: Path) -> None:
    path.touch()


def register_and_spin(how: str, path: Path) -> None:
    if how == "partial":
        atexit.register(functools.partial(leave_a_file, path))
    elif how == "of the standard library":
        atexit.register(os.mkdir, path)
    else:
        _kept.append(target := Target())
        weakref.finalize(target, leave_a_file, path)
    spin()


_kept: list[Target] = []


def standard_streams() -> tuple[list[str], int]:
    """Return what this process has as its standard streams, and the number of the next file."""
    streams = [str(Path(f"/proc/self/fd/{fd}").readlink()) for fd in range(3)]
    opened = os.open("/dev/zero", os.O_RDONLY)
    os.close(opened)
    return streams, opened


def limit_address_space(more_bytes: int) -> int:
    """Allow this process so many bytes more than it has; return its id."""
    pages = int(Path("/proc/self/statm").read_text().split()[0])
    limit = pages * resource.getpagesize() + more_bytes
    resource.setrlimit(resource.RLIMIT_AS, (limit, resource.getrlimit(resource.RLIMIT_AS)[1]))
    return os.getpid()


def give_back_without_memory(kind: str, size_bytes: int, more_bytes: int) -> Any:
    """Return or raise something large, when there is no memory to pickle it."""
    value: Any = bytes(size_bytes) if kind == "bytes" else bytearray(size_bytes)
    limit_address_space(more_bytes)
    if kind == "exception":
        raise ValueError(value)
    return value


def write_behind(path: Path, seconds: float) -> None:
    """Return, and leave it to a thread to write, as caches and uploads do."""

    def write() -> None:
        time.sleep(seconds)
        path.write_text("all of it")

    threading.Thread(target=write).start()


def leave_a_thread() -> None:
    threading.Thread(target=time.sleep, args=(3600,)).start()


def leave_executors(ended: Path) -> None:
    """Leave a pool of processes, one of threads and an exit handler to the end of the process."""
    from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor

    remember("executors", [ProcessPoolExecutor(1), ThreadPoolExecutor(1)])
    for executor in recall("executors"):
        executor.submit(abs, -1).result()
    atexit.register(ended.write_text, "exit handler")


class ChoosyError(Exception):
    """An exception whose constructor refuses what its base was given."""

    def __init__(self, code: int) -> None:
        if not isinstance(code, int):
            raise ValueError("the code must be a number")
        super().__init__(f"code {code}")


def raise_choosy() -> None:
    raise ChoosyError(3)


def raise_holding_choosy() -> None:
    raise RuntimeError("holds", ChoosyError(3), [PickyError(404, "not found")])


def raise_group_of_choosy() -> None:
    inner = builtins.ExceptionGroup("inner", [PickyError(404, "not found")])  # type: ignore[attr-defined]
    raise builtins.ExceptionGroup("several", [ChoosyError(3), inner])  # type: ignore[attr-defined]


class AsksForItself:
    """Calls what the caller has registered while it is unpickled."""

    called: Any = None

    def __reduce__(self) -> tuple[Any, ...]:
        return _call_registered, ()


def _call_registered() -> str:
    called = AsksForItself.called
    return called() if called is not None else "nothing was registered"
