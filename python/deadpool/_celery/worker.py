"""What :mod:`deadpool.celery` runs in its worker processes."""

from __future__ import annotations

import fcntl
import functools
import importlib
import multiprocessing
import os
import signal
import sys
from collections.abc import Callable, Mapping
from multiprocessing.reduction import DupFd
from typing import Any, ClassVar

import celery.app.base
from billiard import util as billiard_util
from billiard.einfo import ExceptionInfo
from billiard.process import current_process
from celery import platforms, signals
from celery._state import _set_task_join_will_block, set_default_app
from celery.app import trace
from celery.exceptions import ImproperlyConfigured, SoftTimeLimitExceeded
from celery.worker import state as worker_state

from .._child import worker as child_worker
from . import app as celery_app
from . import signals as celery_signals
from .settings import Settings

# By this environment variable Celery tells interpreters that are new from forks of the program.
FRESH_INTERPRETER = "FORKED_BY_MULTIPROCESSING"
# Set by the parent's logging, for that of the workers.
_LOG_VARIABLES = ("CELERY_LOG_", "_MP_FORK_LOG")
_MOST_WORKERS = 1 << 20
_TESTING = "celery.contrib.testing.worker"
_TESTING_TASKS = "celery.contrib.testing.tasks"

_hostname: str | None = None
_is_in_task = False


class Raised:
    """What a task's tracer has raised rather than returned, such as ``SystemExit`` or ``Reject``.

    :param einfo: The exception.
    """

    __slots__ = ("einfo",)

    def __init__(self, einfo: Any) -> None:
        self.einfo = einfo

    def __reduce__(self) -> tuple[Any, ...]:
        return Raised, (self.einfo,)


def run(target: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
    """Run Celery's tracer of a task; what it raises does not end the worker."""
    global _is_in_task
    try:
        _is_in_task = True
        try:
            return target(*args, **kwargs)
        finally:
            _is_in_task = False
    except BaseException:
        return Raised(ExceptionInfo())


class Call:
    """Calls a tracer, under the name of the task that reports are to show.

    :param name: The task's name.
    :param target: The tracer.
    """

    _known: ClassVar[dict[tuple[str | None, Any], Call]] = {}

    def __init__(self, name: str | None, target: Callable[..., Any]) -> None:
        module, _, rest = (name or "celery.task").rpartition(".")
        self.__module__ = module or "celery"
        self.__qualname__ = rest
        self._target = target
        self._reduced = (_arrived, (target,))

    @classmethod
    def named(cls, name: str | None, target: Callable[..., Any]) -> Call:
        """Return the one for a task, which is made once."""
        known = cls._known.get((name, target))
        if known is None:
            known = cls._known[name, target] = cls(name, target)
        return known

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        return run(self._target, *args, **kwargs)

    def __reduce__(self) -> tuple[Any, ...]:
        return self._reduced


_arrivals: dict[Callable[..., Any], Callable[..., Any]] = {}


def _arrived(target: Callable[..., Any]) -> Callable[..., Any]:
    known = _arrivals.get(target)
    if known is None:
        known = _arrivals[target] = functools.partial(run, target)
    return known


class Luggage:
    """What a worker process needs of its parent.

    :param app: The app, or its pickle until the process has begun.
    :param hostname: The name of the Celery worker.
    :param start_method: How the process is started.
    :param preload: Whether the process from which workers are forked imports the task modules.
    :param places: A file, in which each worker locks the byte of its index.
    :param tasks: The app's tasks, as :func:`deadpool._celery.app.places_of_tasks` has them.
    """

    def __init__(
        self,
        app: Any,
        hostname: str | None,
        start_method: str,
        preload: bool,
        places: int,
        tasks: Mapping[str, celery_app.Place],
    ) -> None:
        self.tasks = tasks
        self.app = app
        self.hostname = hostname
        self.start_method = start_method
        self.preload = preload
        self.places = places

    @classmethod
    def packed(cls, app: Any, hostname: str | None, settings: Settings) -> Luggage:
        """Return that of an app.

        :raises ImproperlyConfigured: If the app has to be pickled and can't be.
        """
        tasks = {}
        if settings.start_method != "fork":
            tasks = celery_app.places_of_tasks(app)
            try:
                app = celery_app.dumps(app)
            except Exception as error:
                raise ImproperlyConfigured(
                    f"The app can't be pickled, as the start method {settings.start_method!r} needs: "
                    f"{error!r}. Set deadpool_start_method to 'fork', or change its configuration."
                ) from error
        places = os.memfd_create("deadpool-celery-places", os.MFD_CLOEXEC)
        return cls(app, hostname, settings.start_method, settings.preload, places, tasks)

    def close(self) -> None:
        """Close the file."""
        places, self.places = self.places, -1
        if places >= 0:
            os.close(places)

    def __reduce__(self) -> tuple[Any, ...]:
        variables = {
            name: value for name, value in os.environ.items() if name.startswith(_LOG_VARIABLES)
        }
        # Whoever starts a worker for tests has it run a task of Celery's, which no app includes.
        modules = [_TESTING_TASKS] if _TESTING in sys.modules else []
        args = (self.app, self.hostname, self.start_method, self.preload, modules, self.tasks)
        return _unpack, (*args, DupFd(self.places), variables)


def _unpack(
    pickled: bytes,
    hostname: str | None,
    start_method: str,
    preload: bool,
    modules: list[str],
    tasks: Mapping[str, celery_app.Place],
    places: Any,
    variables: dict[str, str],
) -> Luggage:
    """Make a new interpreter one that is like the parent; the workers are forked from it."""
    os.environ.update(variables)
    # Both before anything of the program is imported: how tasks are bound depends on them.
    os.environ[FRESH_INTERPRETER] = "1"
    celery.app.base.USING_EXECV = "1"
    app = celery_app.loads(pickled)
    for module in modules:
        importlib.import_module(module)
    if preload:
        _import_tasks(app)
    return Luggage(app, hostname, start_method, preload, places.detach(), tasks)


def _import_tasks(app: Any) -> None:
    app.loader.init_worker()
    app.finalize()


def start(luggage: Luggage) -> None:
    """Make this process one of the pool's, as Celery's own process initializer does."""
    global _hostname
    app, hostname = luggage.app, luggage.hostname
    _name(_take_place(luggage.places))
    _set_task_join_will_block(True)
    platforms.signals.reset("SIGTERM", "SIGHUP", "SIGTTIN", "SIGTTOU")
    platforms.signals.ignore("SIGINT")
    signal.signal(celery_signals.SOFT_LIMIT, _raise_in_task)
    child_worker.soft_timeout_error = _soft_time_limit_exceeded  # type: ignore[assignment]
    platforms.set_mp_process_title("celeryd", hostname=hostname)
    # Workers are forks of something in any case: drop its connections and the like.
    billiard_util._run_after_forkers()
    app.loader.init_worker()
    app.loader.init_worker_process()
    _set_up_logging(app, hostname)
    if luggage.start_method == "fork":
        app.set_current()
        set_default_app(app)
        app.finalize()
        trace._tasks = app._tasks
    else:
        _install_fixups(app)
        celery_app.add_tasks(app, luggage.tasks)
        trace.setup_worker_optimizations(app, hostname)
    for name, task in app.tasks.items():
        task.__trace__ = trace.build_tracer(name, task, app.loader, hostname, app=app)
    worker_state.reset_state()
    _hostname = hostname
    signals.worker_process_init.send(sender=hostname)


def finish() -> None:
    """Tell that this process ends, as Celery's own pool does."""
    signals.worker_process_shutdown.send(sender=_hostname, pid=os.getpid(), exitcode=0)


def _take_place(places: int) -> int:
    """Return the lowest index that no living worker has."""
    for index in range(_MOST_WORKERS):
        try:
            # Held by this process until it ends, however it does.
            fcntl.lockf(places, fcntl.LOCK_EX | fcntl.LOCK_NB, 1, index)
        except OSError:
            continue
        return index
    raise AssertionError("there are not so many processes")


def _name(index: int) -> None:
    name = f"DeadpoolWorker-{index + 1}"
    multiprocessing.current_process().name = name
    # Celery asks billiard, by private names: whether it is the parent, and which log file is its own.
    process = current_process()
    process._name = name
    process.index = index


def _set_up_logging(app: Any, hostname: str | None) -> None:
    logfile = os.environ.get("CELERY_LOG_FILE") or None
    if logfile and "%i" in logfile.lower():
        # Each worker has a file of its own.
        app.log.already_setup = False
    app.log.setup(
        int(os.environ.get("CELERY_LOG_LEVEL", 0) or 0),
        logfile,
        bool(os.environ.get("CELERY_LOG_REDIRECT", False)),
        str(os.environ.get("CELERY_LOG_REDIRECT_LEVEL")),
        hostname=hostname,
    )


def _install_fixups(app: Any) -> None:
    """Do for Django what the signal ``worker_init`` does in the parent, and a fork would inherit."""
    for fixup in app._fixups:
        install = getattr(fixup, "on_worker_init", None)
        if install is not None:
            install()


def _soft_time_limit_exceeded(_message: str) -> BaseException:
    return SoftTimeLimitExceeded()  # type: ignore[no-any-return]


def _raise_in_task(_signum: int, _frame: Any) -> None:
    if _is_in_task:
        raise SoftTimeLimitExceeded
