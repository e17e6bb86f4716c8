"""What zygotes and workers run. The loops are native; here is what must be Python."""

from __future__ import annotations

import atexit
import contextlib
import faulthandler
import functools
import gc
import multiprocessing
import os
import pickle
import signal
import stat
import sys
import threading
import warnings
from multiprocessing import process as mp_process
from multiprocessing import reduction
from multiprocessing import util as mp_util
from types import SimpleNamespace

from .. import _core
from .._exceptions import SoftTimeoutError
from . import fork as _fork
from .fork import flush_streams as flush_streams

TYPE_CHECKING = False
if TYPE_CHECKING:
    import logging
    from collections.abc import Callable, Sequence
    from types import FrameType
    from typing import Any

# Set to a subclass in workers of which another interface is expected.
soft_timeout_error = SoftTimeoutError


def _logger() -> logging.Logger:
    # There is seldom something to say, and the module is a large one.
    import logging

    return logging.getLogger("deadpool.worker")


class Functions(SimpleNamespace):
    """The two functions of a serializer; they can be pickled where a module can't.

    :param dumps: From an object to bytes.
    :param loads: From bytes to an object.
    """

    dumps: Any
    loads: Any


class Spec(SimpleNamespace):
    """What each worker of a pool is made with; see :class:`deadpool.Deadpool`."""

    initializer: Callable[..., object] | None
    initargs: tuple[Any, ...]
    finalizer: Callable[..., object] | None
    finalargs: tuple[Any, ...]
    daemon: bool
    serializer: Functions | None
    max_worker_memory_bytes: int | None
    trim_threshold_bytes: int | None
    propagates_environ: bool
    fails_on_initializer_error: bool


class Descriptor:
    """A file descriptor on its way to a process that is being started.

    :param fd: Its number here.
    """

    def __init__(self, fd: int) -> None:
        self.fd = fd

    def __reduce__(self) -> tuple[Any, ...]:
        return _descriptor_arrived, (reduction.DupFd(self.fd),)


def _descriptor_arrived(duplicate: Any) -> Descriptor:
    return Descriptor(duplicate.detach())


def run_zygote(control: Descriptor, spec: Spec, inherited: Sequence[int]) -> None:
    """Run a zygote to its end, and that of the process. Blocks.

    :param control: Its end of the socket to the supervisor.
    :param spec: What its workers are made with.
    :param inherited: Descriptors of the supervisor that came along with a fork.
    """
    # Ctrl-C goes to all processes of a terminal, and is the parent's business.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGINT})
    close_all(inherited)
    if multiprocessing.get_start_method() == "fork":
        _forget_imports_under_way()
        _forget_signals_of_parent()
        _become_main_thread()
    else:
        _close_pipes_on_exec()
    # What is there now stays for ever, in pages that all workers share.
    gc.freeze()
    code = 1
    try:
        _core.run_zygote(control.fd, functools.partial(_fork_worker, spec))
        code = 0
    except BaseException:
        _logger().exception("a zygote failed")
    finally:
        flush_streams()
        os._exit(code)


def _close_pipes_on_exec() -> None:
    """Keep programs that tasks start from getting the pipes that multiprocessing has passed on."""
    try:
        names = os.listdir("/proc/self/fd")  # noqa: PTH208  # Each worker would import pathlib.
    except OSError:
        # Without /proc, those that there are likely to be.
        names = [str(fd) for fd in range(256)]
    for name in names:
        with contextlib.suppress(OSError):
            if int(name) > 2 and stat.S_ISFIFO(os.fstat(int(name)).st_mode):
                os.set_inheritable(int(name), False)


def _forget_imports_under_way() -> None:
    """Drop what other threads of the parent were importing when this process was forked.

    They are not here to finish it, and the locks that they held are never released: whoever imported
    such a module here would wait for ever.
    """
    bootstrap: Any = sys.modules["_frozen_importlib"]
    bootstrap._module_locks.clear()
    bootstrap._blocking_on.clear()
    for name, module in list(sys.modules.items()):
        if getattr(getattr(module, "__spec__", None), "_initializing", False):
            del sys.modules[name]


def _forget_signals_of_parent() -> None:
    """Keep signals to this process, and to workers, from reaching the parent's event loop.

    The descriptor that wakes it is inherited by a fork, and so are handlers that shut the program down.
    """
    signal.set_wakeup_fd(-1)
    for number in (signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT):
        if callable(signal.getsignal(number)):
            signal.signal(number, signal.SIG_DFL)


def _become_main_thread() -> None:
    """Have the one thread of a fork look like a main thread, as which a daemonic thread goes on here.

    Threads that tasks start would be daemonic by default, and not joined at the end.
    """
    thread: Any = threading.current_thread()
    thread._daemonic = False
    thread.name = "MainThread"


def _fork_worker(spec: Spec, worker: int, fds: list[int], inherited: list[int]) -> int:
    """Fork a worker and return its process id."""
    grandparent = mp_process.parent_process()
    context = multiprocessing.get_context("fork")
    process = context.Process(
        target=_run_worker,
        args=(spec, fds, inherited, grandparent),
        name=f"DeadpoolWorker-{worker}",
        daemon=spec.daemon,
    )
    with warnings.catch_warnings():
        # A zygote has one thread, unless the main module has started others while it was imported.
        warnings.filterwarnings("ignore", ".*fork.*", DeprecationWarning)
        # Not by start(), which would look at all other workers first.
        popen = _fork.Popen(process)
    return int(popen.pid)


def _run_worker(
    spec: Spec, fds: list[int], inherited: list[int], parent: mp_process.BaseProcess | None
) -> None:
    code = 1
    try:
        close_all(inherited)
        mp_process._parent_process = parent  # type: ignore[attr-defined]
        _serve(spec, fds)
    except SystemExit as error:
        code = error.code if isinstance(error.code, int) else int(error.code is not None)
    except BaseException:
        _logger().exception("a worker failed")
    else:
        # A worker that exits voluntarily does as an interpreter, in its order: it joins threads and
        # ends executors that user code has left; then `Process._bootstrap`, into which coverage and
        # other tools hook, ends what multiprocessing has; then exit handlers run.
        threading._shutdown()  # type: ignore[attr-defined]
        return
    flush_streams()
    # Threads and all else that user code left running end here.
    os._exit(code)


def _serve(spec: Spec, fds: list[int]) -> None:
    # What the parent or the fork server has registered is theirs.
    atexit._clear()
    atexit.register(mp_util._exit_function)  # type: ignore[attr-defined]
    # A parent may have blocked any signal.
    ours = {signal.SIGCHLD, _core.STACK_SIGNAL, _core.SOFT_TIMEOUT_SIGNAL}
    signal.pthread_sigmask(signal.SIG_UNBLOCK, ours)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    worker = _core.Worker(
        fds, spec.serializer, spec.max_worker_memory_bytes, spec.trim_threshold_bytes
    )
    _count_exit_handlers(worker)
    stack = worker.stack_fd()
    faulthandler.enable(stack, all_threads=True)
    # The native handler that it is chained to tells the supervisor that the stack is written.
    faulthandler.register(_core.STACK_SIGNAL, stack, all_threads=True, chain=True)
    signal.signal(_core.SOFT_TIMEOUT_SIGNAL, functools.partial(_raise_soft_timeout, worker))
    if spec.propagates_environ:
        worker.receive_environ(_apply_environ)
    if not _initialize(spec, worker):
        return
    worker.run(_apply_environ)
    _finalize(spec)


def _initialize(spec: Spec, worker: _core.Worker) -> bool:
    """Run the initializer. Return whether tasks may come."""
    if spec.initializer is None:
        return True
    try:
        spec.initializer(*spec.initargs)
    except Exception as error:
        if spec.fails_on_initializer_error:
            worker.initializer_failed(error)
            return False
        _logger().exception("the initializer failed")
    return True


def _finalize(spec: Spec) -> None:
    if spec.finalizer is None:
        return
    try:
        spec.finalizer(*spec.finalargs)
    except BaseException:
        _logger().exception("the finalizer failed")


def _raise_soft_timeout(worker: _core.Worker, _signal: int, _frame: FrameType | None) -> None:
    if worker.take_interrupt():
        raise soft_timeout_error("the task ran longer than its soft timeout")


def _apply_environ(changes: bytes) -> None:
    updates, removed = pickle.loads(changes)
    for name in removed:
        os.environ.pop(name, None)
    os.environ.update(updates)


def _count_exit_handlers(worker: _core.Worker) -> None:
    """Keep the supervisor informed of how many exit handlers user code has registered.

    Only those are worth a delay before a kill. What the standard library registers for itself is
    not; a ``weakref.finalize`` is the user's, or cleans up after the user.
    """
    registered: list[Callable[..., object]] = []
    register: Any = atexit.register
    unregister: Any = atexit.unregister

    def counting_register(func: Any, /, *args: Any, **kwargs: Any) -> Any:
        result = register(func, *args, **kwargs)
        caller = sys._getframe(1).f_globals.get("__name__") or ""
        top = caller.partition(".")[0]
        if top in ("__main__", "weakref") or top not in sys.stdlib_module_names:
            registered.append(func)
            worker.set_exit_handlers(len(registered))
        return result

    def counting_unregister(func: Any, /) -> None:
        unregister(func)
        registered[:] = [other for other in registered if other != func]
        worker.set_exit_handlers(len(registered))

    atexit.register = functools.update_wrapper(counting_register, register)
    atexit.unregister = functools.update_wrapper(counting_unregister, unregister)


def run_exit_handlers() -> None:
    """Run what user code has registered with :mod:`atexit`, before this process is killed."""
    atexit._run_exitfuncs()
    flush_streams()


def trim_memory() -> None:
    """Give unused heap memory back to the system, or log why that can't be done here."""
    if not _core.malloc_trim():
        _logger().info("memory is not trimmed: this C library has no malloc_trim")


def close_all(fds: Sequence[int]) -> None:
    """Close descriptors that came along with a fork."""
    for fd in fds:
        with contextlib.suppress(OSError):
            os.close(fd)
