"""Exceptions on their way from a worker to its pool, and what is said of workers that died.

Called by the native core only. ``take_apart`` runs in the worker and ``put_together`` in the pool's
process; neither is on the fast path.
"""

from __future__ import annotations

import copyreg
import functools
import signal as _signal
import traceback

from ._exceptions import MemoryLimitError, ProcessError, TimeoutError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

_HEAP_TYPE = (
    1 << 9
)  # Py_TPFLAGS_HEAPTYPE: the class was made by a class statement, or could have been.

# Set in workers of which another interface is expected: it makes, of the error and the result or
# exception that can't be pickled, the exception that the task ends with.
unpicklable_error: Callable[[BaseException, Any], BaseException] | None = None


def describe(exception: BaseException) -> str:
    """Return the traceback as text that can be encoded."""
    try:
        lines = traceback.format_exception(type(exception), exception, exception.__traceback__)
        text = "".join(lines)
    except BaseException as error:
        text = f"{_shown(exception)} (formatting its traceback failed: {_shown(error)})\n"
    return text.encode("utf-8", "backslashreplace").decode("utf-8")


def take_apart(exception: BaseException) -> tuple[Any, ...]:
    """Return what to pickle in place of an exception."""
    reduced = exception.__reduce_ex__(5) if _is_plain(exception) else None
    if not isinstance(reduced, tuple) or len(reduced) not in (2, 3):
        return (exception,)
    cls, arguments, *state = reduced
    if cls is not type(exception):
        return (exception,)
    # An exception within, as those of a group, is taken apart as well. One that stands in several
    # places is one on the other side, too.
    known: dict[int, _Apart] = {}
    parts = arguments, exception.args, state[0] if state else None
    return cls, *(_taken_apart_within(part, known) for part in parts)


class _Apart:
    """An exception that is pickled by its parts.

    :param exception: The exception.
    """

    def __init__(self, exception: BaseException) -> None:
        self._exception = exception

    def __reduce__(self) -> tuple[Any, ...]:
        return put_together, (take_apart(self._exception),)


def _taken_apart_within(value: Any, known: dict[int, _Apart]) -> Any:
    if isinstance(value, BaseException):
        return known.setdefault(id(value), _Apart(value)) if _is_plain(value) else value
    if type(value) in (list, tuple):
        return type(value)(_taken_apart_within(item, known) for item in value)
    if type(value) is dict:
        return {key: _taken_apart_within(item, known) for key, item in value.items()}
    return value


def put_together(parts: tuple[Any, ...]) -> BaseException:
    """Return the exception that was taken apart.

    :raises BaseException: What its class raises when it is made.
    """
    if len(parts) == 1:
        exception = parts[0]
    else:
        cls, arguments, args, state = parts
        try:
            exception = cls(*arguments)
        except Exception:
            # It wants other arguments than it has passed on, or looks into them.
            exception = _make_without_init(cls, arguments)
        if exception.args != args:
            # The constructor made something else of them: what counts is how it was raised.
            exception.args = args
        if state is not None:
            exception.__setstate__(state)
    if not isinstance(exception, BaseException):
        raise ProcessError(f"unpickling an exception made an object of {type(exception)}")
    return exception


def attach_traceback(exception: BaseException, text: str) -> BaseException:
    """Make the remote traceback the cause of the exception, without that of its rebuilding."""
    exception.__traceback__ = None
    exception.__context__ = None
    if text:
        exception.__cause__ = _remote_traceback(f'\n"""\n{text}"""')
    return exception


def _remote_traceback(text: str) -> Exception:
    """Return the kind of cause that the standard library's executor gives to exceptions."""
    try:
        # Here, since it is much to import, and for failures alone.
        from concurrent.futures.process import _RemoteTraceback
    except (ImportError, OSError):
        # It can't be read: there are no descriptors left, or no rights. The text is what counts.
        return Exception(text)
    # It takes text, whatever its type hint says.
    return _RemoteTraceback(text)  # type: ignore[arg-type]


def unpicklable(exception: BaseException, error: BaseException) -> str:
    """Return the message about an exception that can't be pickled."""
    message = (
        f"a task raised {_shown(exception)}, and pickling it failed: {_shown(error)}\n\n"
        f"{describe(exception)}"
    )
    return message.encode("utf-8", "backslashreplace").decode("utf-8")


def stand_in(value: Any, error: BaseException) -> BaseException | None:
    """Return what is raised instead of the error that came of pickling a value, if that was set."""
    return None if unpicklable_error is None else unpicklable_error(error, value)


def process_error(message: str, text: str) -> BaseException:
    """Return a ProcessError that the remote traceback caused."""
    return attach_traceback(ProcessError(message), text)


def forget_frames(exception: BaseException) -> None:
    """Let go of what the task's frames keep alive."""
    seen: set[int] = set()
    pending: list[BaseException | None] = [exception]
    while pending:
        link = pending.pop()
        if link is not None and id(link) not in seen:
            seen.add(id(link))
            pending += [link.__cause__, link.__context__]
            link.__traceback__ = None


def failure(kind: str, *, task: str, **facts: Any) -> BaseException:
    """Return the exception for a task that something other than its own code ended.

    :param kind: What ended it.
    :param task: Module and qualified name of its function.
    :param facts: The attributes of the exception, and what the sentence needs beside them.
    """
    known = {
        name: facts.get(name) for name in ("pid", "exitcode", "rss_bytes", "oom_killed", "stack")
    }
    sentence = _SENTENCES[kind](task, facts)
    memory = _memory(facts) if kind in ("worker_died", "timed_out") else ""
    stack = f"\n\n{facts['stack']}" if facts.get("stack") else ""
    cls = {"timed_out": TimeoutError, "memory_exceeded": MemoryLimitError}.get(kind, ProcessError)
    exception = cls(f"{sentence}{memory}{stack}", task=task, **known)
    exception.__cause__ = facts.get("exception")
    return exception


def _timed_out(task: str, facts: dict[str, Any]) -> str:
    end = "it was not started" if facts.get("pid") is None else _killed(facts)
    return f"Task {task} timed out after {facts['timeout']:g} s; {end}"


def _memory_exceeded(task: str, facts: dict[str, Any]) -> str:
    used, limit = _mebibytes(facts["used_bytes"]), _mebibytes(facts["limit_bytes"])
    return f"Task {task} used {used} of memory, more than its limit of {limit}; {_killed(facts)}"


def _worker_died(task: str, facts: dict[str, Any]) -> str:
    pid = facts.get("pid")
    process = "Worker process" if pid is None else f"Worker process {pid}"
    attempts = facts.get("attempts", 1)
    again = f", at attempt {attempts}" if attempts > 1 else ""
    return f"{process} died while running {task}{again}: {_exit(facts.get('exitcode'))}"


def _condemned(task: str, facts: dict[str, Any]) -> str:
    return f"{_worker(facts).capitalize()} was killed while running {task}: {facts['reason']}"


def _initializer_failed(task: str, facts: dict[str, Any]) -> str:
    return f"Task {task} was not run, since the initializer failed: {_shown(facts['exception'])}"


def _not_started(task: str, facts: dict[str, Any]) -> str:
    return f"Task {task} was not run, since no worker could be started: {facts['reason']}"


def _pool_failed(task: str, facts: dict[str, Any]) -> str:
    return f"Task {task} was given up, since the pool failed: {facts['reason']}"


_SENTENCES = {
    "timed_out": _timed_out,
    "memory_exceeded": _memory_exceeded,
    "worker_died": _worker_died,
    "condemned": _condemned,
    "initializer_failed": _initializer_failed,
    "not_started": _not_started,
    "pool_failed": _pool_failed,
}


def _killed(facts: dict[str, Any]) -> str:
    if facts.get("survives"):
        return f"{_worker(facts)} could not be killed and goes on: {facts['survives']}"
    return f"{_worker(facts)} was killed"


def _worker(facts: dict[str, Any]) -> str:
    pid = facts.get("pid")
    return "the worker" if pid is None else f"worker {pid}"


@functools.cache
def _exit(exitcode: int | None) -> str:
    if exitcode is None:
        return "nobody could tell how"
    if exitcode >= 0:
        return f"exitcode {exitcode}"
    try:
        meaning = _signal.strsignal(-exitcode)
    except ValueError:
        meaning = None
    return f"exitcode {exitcode} ({meaning or f'signal {-exitcode}'})"


def _memory(facts: dict[str, Any]) -> str:
    parts = []
    if facts.get("oom_killed"):
        parts.append("the kernel killed it for want of memory")
    if facts.get("rss_bytes"):
        parts.append(f"it used {_mebibytes(facts['rss_bytes'])} of memory when last seen")
    return f"; {' and '.join(parts)}" if parts else ""


def _mebibytes(size_bytes: int) -> str:
    tenths = (size_bytes * 10 + 2**19) >> 20
    return f"{tenths // 10:,}.{tenths % 10} MiB"


def _shown(exception: BaseException) -> str:
    try:
        return repr(exception)
    except BaseException:
        return f"<{type(exception).__name__} whose repr() fails>"


def _is_plain(exception: BaseException) -> bool:
    """Whether pickling the exception means its class, its arguments and its ``__dict__``."""
    cls = type(exception)
    if cls in copyreg.dispatch_table:
        return False
    for name in ("__reduce_ex__", "__reduce__", "__getstate__"):
        owner = next((base for base in cls.__mro__ if name in vars(base)), object)
        if owner.__flags__ & _HEAP_TYPE:
            return False
    return "__reduce_ex__" not in vars(exception) and "__reduce__" not in vars(exception)


def _make_without_init(cls: type[BaseException], arguments: tuple[Any, ...]) -> BaseException:
    """Make an exception whose constructor wants other arguments than it passed to its base's."""
    builtin = next(base for base in cls.__mro__ if not base.__flags__ & _HEAP_TYPE)
    exception: BaseException = builtin.__new__(cls, *arguments)
    try:
        # Sets what the C structure holds, such as OSError.errno.
        builtin.__init__(exception, *arguments)  # type: ignore[misc]
    except Exception:
        exception.args = arguments
    return exception
