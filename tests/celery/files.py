"""kombu's transport and Celery's results in files, made safe for a reader that is quick.

Both write a file under its final name, so that a reader may find half of it and fail.
"""

from __future__ import annotations

import os
import time
import uuid
from pathlib import Path
from typing import Any

from celery.backends.filesystem import FilesystemBackend
from kombu.transport import TRANSPORT_ALIASES, filesystem
from kombu.utils.encoding import bytes_to_str, str_to_bytes
from kombu.utils.json import dumps

TRANSPORT_ALIASES["files"] = "files:Transport"


def write(path: Path, content: bytes) -> None:
    """Write a file that nobody can see before it is whole."""
    new = path.with_name(f"{uuid.uuid4().hex}.new")
    new.write_bytes(content)
    new.replace(path)


class Channel(filesystem.Channel):  # type: ignore[misc]
    """The transport's channel, but for how it writes a message."""

    def _put(self, queue: str, payload: Any, **_: Any) -> None:
        name = f"{round(time.monotonic() * 1000)}_{uuid.uuid4()}.{queue}.msg"
        write(Path(self.data_folder_out, name), str_to_bytes(dumps(payload)))


class Transport(filesystem.Transport):  # type: ignore[misc]
    """kombu's transport with that channel."""

    Channel = Channel


class Backend(FilesystemBackend):  # type: ignore[misc]
    """Celery's backend, but for how it writes a result."""

    def set(self, key: bytes, value: Any) -> None:
        """Store a result."""
        write(Path(os.fsdecode(self._filename(key))), str_to_bytes(value))

    def _filename(self, key: bytes) -> str:
        return str(bytes_to_str(super()._filename(key)))
