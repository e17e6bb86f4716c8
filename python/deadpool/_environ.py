"""The environment that workers get from their parent."""

from __future__ import annotations

import itertools
import pickle
from collections.abc import Mapping

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from ._core import EnvironSender


class Propagated:
    """A mapping whose latest state new workers are to have.

    No lock is held while the mapping is copied, which may run any Python code, and may be interrupted
    by a signal handler or a finalizer that submits a task: :class:`deadpool._core.EnvironSender` puts
    what several threads have seen into its order.

    :param mapping: The mapping, which may change at any time; None for none.
    :raises TypeError: If it is something else, or a name or a value in it is no string.
    :raises ValueError: If a name or a value can't stand in an environment.
    """

    def __init__(self, mapping: Mapping[Any, Any] | None) -> None:
        if mapping is not None and not isinstance(mapping, Mapping):
            raise TypeError(f"propagate_environ must be a mapping or None, not {type(mapping)}")
        self._mapping = mapping
        self._tickets = itertools.count(1)
        self._sender: EnvironSender | None = None
        # Every name that was ever sent: one that is missing now is removed from workers.
        self._ever: set[str] = set()
        self._copy()

    @property
    def is_wanted(self) -> bool:
        """Whether there is a mapping."""
        return self._mapping is not None

    def send_to(self, sender: EnvironSender) -> None:
        """Say where changes are to be sent, and send the present state.

        :raises TypeError: If a name or a value is no string.
        :raises ValueError: If a name or a value can't stand in an environment.
        """
        if self._mapping is not None:
            self._sender = sender
            self.look()

    def look(self) -> None:
        """Send the mapping if it has changed. Does not block.

        :raises TypeError: If a name or a value is no string.
        :raises ValueError: If a name or a value can't stand in an environment.
        """
        if self._sender is None:
            return
        ticket = next(self._tickets)
        environ = self._copy()
        if self._sender.send(ticket, environ):
            self._ever.update(environ)
            removed = sorted(self._ever - environ.keys())
            self._sender.send(ticket, environ, pickle.dumps((environ, removed)))

    def _copy(self) -> dict[str, str]:
        environ: dict[str, str] = {}
        if self._mapping is None:
            return environ
        for name, value in dict(self._mapping).items():
            if not isinstance(name, str) or not isinstance(value, str):
                raise TypeError(
                    f"propagate_environ must map strings to strings, not {name!r} to {value!r}"
                )
            # Exact strings, so that comparing them runs no Python code.
            plain_name, plain_value = str.__str__(name), str.__str__(value)
            if not plain_name or "=" in plain_name or "\0" in plain_name + plain_value:
                raise ValueError(
                    "propagate_environ must have names without '=', and no NUL anywhere, "
                    f"not {name!r} with {value!r}"
                )
            environ[plain_name] = plain_value
        return environ
