"""The start methods: how each starts zygotes and workers."""

from __future__ import annotations

import multiprocessing
from multiprocessing.context import BaseContext
from types import SimpleNamespace

from .. import _core
from . import fork_server

# Workers that may be on their way to a process, where that takes little.
_MOST_STARTS = 32


class StartMethod(SimpleNamespace):
    """How processes are started.

    :param context: What starts them.
    :param name: ``"forkserver"``, ``"spawn"`` or ``"fork"``.
    """

    context: BaseContext
    name: str

    @property
    def has_fork_server(self) -> bool:
        """Whether zygotes are forked by the fork server that is ours."""
        return self.name == "forkserver" and fork_server.is_possible()

    @property
    def zygote_each(self) -> bool:
        """Whether each worker has a zygote of its own.

        Only under forkserver do workers share one, as they share the fork server otherwise. Under
        spawn each is a fresh interpreter, under fork each is a copy of the parent as it is then.
        """
        return self.name != "forkserver"

    @property
    def starts_at_once(self) -> int:
        """How many workers may be on their way to a process at the same time.

        Under spawn each is an interpreter that starts, and more of them than processors would only
        keep the first from being ready.
        """
        return _core.available_cpus() if self.name == "spawn" else _MOST_STARTS

    @property
    def starts_first(self) -> bool:
        """Whether the first workers are to be there before anything else goes on.

        A fork is a copy of whatever the parent is doing: made in the background, it would keep open
        the pipes that another thread makes meanwhile, and hold locks that nobody releases. Python
        3.12 refuses to fork at all while the work that is left at exit is finished.
        """
        return self.name == "fork"


def start_method(context: BaseContext | str | None) -> StartMethod:
    """Return what is meant by the argument ``mp_context``.

    :param context: A context, the name of a start method, or None for ``"forkserver"``.
    :raises ValueError: If there is no start method of that name here.
    :raises TypeError: If it is something else.
    """
    if context is None:
        context = "forkserver"
    if isinstance(context, str):
        known = multiprocessing.get_all_start_methods()
        if context not in known:
            raise ValueError(f"mp_context must be one of {', '.join(known)}, not {context!r}")
        context = multiprocessing.get_context(context)
    if not isinstance(context, BaseContext):
        raise TypeError(
            "mp_context must be a multiprocessing context, the name of a start method or None, "
            f"not {type(context)}"
        )
    name = context.get_start_method()
    assert name is not None
    return StartMethod(context=context, name=name)
