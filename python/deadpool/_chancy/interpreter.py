"""A worker process that holds a sub-interpreter, from the outside of it.

The process has one sub-interpreter, which is made before its first job and runs all of its jobs. Only
bytes pass between the two: the pickled job goes in as a variable, and what comes of it is left in a
file in memory. Of the interpreters' interface only what Python 3.14 and the package for 3.13 have in
common is used.
"""

from __future__ import annotations

import contextlib
import importlib.util
import os
import pickle
import sys
from pathlib import Path
from typing import Any

from . import job_call

# Importing the package there would import the core, which can't be loaded in a sub-interpreter. So
# another module stands in its place, under which the modules in pure Python can be found.
_BOOT = """
import sys, types
sys.path[:] = list(path)
package = types.ModuleType("deadpool")
package.__path__ = [directory]
sys.modules["deadpool"] = package
from deadpool._chancy import inside_interpreter
inside_interpreter.set_up(package)
"""
_NEEDED = "Python 3.14, or Python 3.13 with the package interpreters-pep-734"


def check_available(name: str) -> None:
    """Check that there are sub-interpreters to be had.

    :param name: What needs them.
    :raises ImportError: If there are none.
    """
    if sys.version_info >= (3, 14):
        return
    if sys.version_info >= (3, 13) and importlib.util.find_spec("interpreters_backport"):
        return
    this = ".".join(map(str, sys.version_info[:3]))
    package = " without that package" if sys.version_info >= (3, 13) else ""
    raise ImportError(
        f"{name} needs {_NEEDED} (pip install 'chancy[sub]'); this is Python {this}{package}"
    )


def _interpreters() -> Any:
    name = "concurrent.interpreters"
    if sys.version_info < (3, 14):
        name = "interpreters_backport.interpreters"
    return importlib.import_module(name)


class Host:
    """A sub-interpreter, and the file in which it leaves what it has to tell."""

    def __init__(self) -> None:
        self._interpreter = _interpreters().create()
        self._file = os.memfd_create("deadpool-job")
        directory = str(Path(__file__).parent.parent)
        self._interpreter.prepare_main(path=tuple(map(str, sys.path)), directory=directory)
        self._interpreter.exec(_BOOT)

    def call(self, function: str, payload: bytes) -> bytes:
        """Call a function of :mod:`deadpool._chancy.inside_interpreter`, and return the result's pickle.

        Blocks until it has returned.

        :raises BaseException: What the function raised.
        """
        os.ftruncate(self._file, 0)
        self._interpreter.prepare_main(payload=payload, file=self._file)
        self._interpreter.exec(
            f"inside_interpreter.answer(inside_interpreter.{function}, payload, file)"
        )
        answer = os.pread(self._file, os.fstat(self._file).st_size, 0)
        if answer[:1] == b"+":
            return answer[1:]
        raise _exception(*pickle.loads(answer[1:]))

    def close(self) -> None:
        """End the sub-interpreter: its exit handlers run, its streams are flushed."""
        self._interpreter.close()
        os.close(self._file)


def _exception(pickled: bytes, text: str) -> BaseException:
    """Return an exception of the sub-interpreter, with its traceback as the cause."""
    from .. import RemoteTraceback

    error: BaseException | None = None
    with contextlib.suppress(Exception):
        error = pickle.loads(pickled)
    if error is None:
        error = RuntimeError("the job raised an exception that can't be brought here")
    error.__cause__ = RemoteTraceback(f'\n"""\n{text}"""')  # type: ignore[arg-type]
    return error


_host: Host | None = None


def open_interpreter(on_initialize_worker: bytes, parent_sys_path: list[str]) -> None:
    """Make the sub-interpreter of this process; the pool's initializer.

    :param on_initialize_worker: What is called in it first, pickled.
    :param parent_sys_path: Its argument.
    """
    global _host
    sys.path[:] = parent_sys_path
    _host = Host()
    _host.call("initialize", pickle.dumps((on_initialize_worker, parent_sys_path)))


def close_interpreter() -> None:
    """End the sub-interpreter of this process; the pool's finalizer."""
    if _host is not None:
        _host.close()


class InterpreterCall(job_call.Named):
    """A call of a job in the sub-interpreter of the process.

    :param name: The job's function.
    :param payload: What :func:`deadpool._chancy.inside_interpreter.run_job` takes, pickled.
    :param limits: What :func:`deadpool._chancy.job_call.limits` takes.
    """

    def __init__(self, name: str, payload: bytes, limits: dict[str, Any]) -> None:
        super().__init__(name)
        self._parts = (name, payload, limits)

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), self._parts

    def __call__(self) -> Pickled:
        """Run the job, and return it with its result."""
        _name, payload, limits = self._parts
        assert _host is not None
        with job_call.limits(**limits):
            return Pickled(_host.call("run_job", payload))


class Pickled:
    """A pickle that becomes what it is the pickle of, where it is unpickled next."""

    def __init__(self, pickled: bytes) -> None:
        self._pickled = pickled

    def __reduce__(self) -> tuple[Any, ...]:
        return pickle.loads, (self._pickled,)
