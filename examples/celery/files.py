"""kombu's transport and Celery's results in files, as a worker without a server can rely on them.

Both write a file under its final name, and whoever finds half of it takes it for a message. A task that
is to run again is such a message: it would be lost. These show a file when it is whole.
"""

from __future__ import annotations

import os
import time
import uuid
from pathlib import Path

from celery.backends.filesystem import FilesystemBackend
from kombu.transport import filesystem
from kombu.utils.encoding import str_to_bytes
from kombu.utils.json import dumps


def write(path, content):
    """Write a file that nobody can see before it is whole."""
    new = path.with_name(f"{uuid.uuid4().hex}.new")
    new.write_bytes(content)
    new.replace(path)


class Channel(filesystem.Channel):
    """The transport's channel, but for how it writes a message."""

    def _put(self, queue, payload, **_):
        name = f"{round(time.monotonic() * 1000)}_{uuid.uuid4()}.{queue}.msg"
        write(Path(self.data_folder_out, name), str_to_bytes(dumps(payload)))


class Transport(filesystem.Transport):
    """The transport with that channel."""

    Channel = Channel


class Backend(FilesystemBackend):
    """The results, but for how one is written."""

    def set(self, key, value):
        """Store a result."""
        write(Path(os.fsdecode(self._filename(key))), str_to_bytes(value))
