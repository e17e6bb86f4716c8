"""The environment that workers get from their parent."""

from __future__ import annotations

import pickle
import threading
from collections.abc import Mapping

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any


class Propagated:
    """A mapping whose latest state new workers are to have.

    :param mapping: The mapping, which may change at any time; None for none.
    """

    def __init__(self, mapping: Mapping[Any, Any] | None) -> None:
        if mapping is not None and not isinstance(mapping, Mapping):
            raise TypeError(f"propagate_environ must be a mapping or None, not {type(mapping)}")
        self._mapping = mapping
        self._sent: dict[str, str] | None = None
        self._ever: set[str] = set()
        self._lock = threading.Lock()

    @property
    def is_wanted(self) -> bool:
        """Whether there is a mapping."""
        return self._mapping is not None

    def changes(self) -> bytes | None:
        """Return what to tell the workers, pickled; None if nothing has changed since last time."""
        if self._mapping is None:
            return None
        with self._lock:
            current = dict(self._mapping)
            for name, value in current.items():
                if not isinstance(name, str) or not isinstance(value, str):
                    raise TypeError(
                        f"propagate_environ must map strings to strings, not {name!r} to {value!r}"
                    )
                if not name or "=" in name or "\0" in name + value:
                    raise ValueError(
                        "propagate_environ must have names without '=', and no NUL anywhere, "
                        f"not {name!r} with {value!r}"
                    )
            if current == self._sent:
                return None
            self._sent = current
            self._ever.update(current)
            return pickle.dumps((current, sorted(self._ever - current.keys())))
