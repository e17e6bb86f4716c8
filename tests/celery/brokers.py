"""The brokers under test: one made of files, and servers that are there or can be started."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import socket
import subprocess
import uuid
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest
from kombu import Connection
from processes import await_death, eventually, tree

_START_SECONDS = 60.0


@dataclass(frozen=True)
class Broker:
    """A broker that is there.

    :param name: ``filesystem``, ``redis`` or ``rabbitmq``.
    :param config: How an app finds it and the results.
    """

    name: str
    config: dict[str, Any] = field(repr=False)

    @property
    def has_event_loop(self) -> bool:
        return self.name != "filesystem"


def filesystem(directory: Path) -> Broker:
    """Make a broker without a server; it has no event loop."""
    folders = {name: directory / name for name in ("queue", "control", "results")}
    for folder in folders.values():
        folder.mkdir(parents=True)
    config = {
        "broker_url": "files://",
        "broker_transport_options": {
            "data_folder_in": str(folders["queue"]),
            "data_folder_out": str(folders["queue"]),
            "control_folder": str(folders["control"]),
            "polling_interval": 0.01,
        },
        "result_backend": f"files:Backend+{folders['results'].as_uri()}",
    }
    return Broker("filesystem", config)


class Server:
    """A broker's process, in a directory of its own.

    :param command: The command that runs it.
    :param directory: Where it keeps what it has.
    :param port: Where it listens.
    :param url: How a client finds it.
    :param environ: Its environment, beside the one here.
    """

    def __init__(
        self, command: list[str], directory: Path, port: int, url: str, environ: dict[str, str]
    ) -> None:
        self._command = command
        self._directory = directory
        self._environ = {**os.environ, **environ}
        self.port = port
        self.url = url
        self._process: subprocess.Popen[bytes] | None = None
        self._others: set[int] = set()

    def start(self) -> None:
        """Start it, and wait until it takes connections."""
        with self._directory.joinpath("output").open("ab") as output:
            self._process = subprocess.Popen(
                self._command,
                cwd=self._directory,
                env=self._environ,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                start_new_session=True,
            )
        eventually(self._answers, _START_SECONDS)

    def _answers(self) -> bool:
        assert self._process is not None
        if self._process.poll() is not None:
            raise AssertionError(self._directory.joinpath("output").read_text())
        return _answers(self.url)

    def stop(self, number: int = signal.SIGTERM) -> None:
        """End it, and what it has started."""
        assert self._process is not None
        processes = tree(self._process.pid)
        self._process.send_signal(number)
        self._process.wait(_START_SECONDS)
        for pid in processes:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        await_death(processes, 5)


def redis_server(directory: Path) -> Server:
    """Return a Redis server that keeps what it has over a restart."""
    program = shutil.which("redis-server")
    if program is None:
        pytest.skip("no REDIS_URL, nothing at localhost:6379, and no redis-server to start")
    port = free_port()
    directory.mkdir(parents=True)
    command = [program, "--port", str(port), "--bind", "127.0.0.1", "--dir", str(directory)]
    command += ["--appendonly", "yes", "--save", ""]
    return Server(command, directory, port, f"redis://127.0.0.1:{port}/0", {})


def rabbitmq_server(directory: Path) -> Server:
    """Return a RabbitMQ server with a node, a port mapper and a directory of its own."""
    program = shutil.which("rabbitmq-server", path=f"{os.environ['PATH']}:/usr/sbin")
    if program is None:
        pytest.skip("no AMQP_URL, nothing at localhost:5672, and no rabbitmq-server to start")
    # The script in the path drops privileges to a user who may not write here.
    script = Path("/usr/lib/rabbitmq/bin/rabbitmq-server")
    program = str(script) if script.exists() else program
    port = free_port()
    directory.mkdir(parents=True)
    directory.joinpath("plugins").write_text("[].\n")
    directory.joinpath("conf").write_text("")
    environ = {
        "HOME": str(directory),
        "RABBITMQ_NODENAME": f"deadpool-{port}@localhost",
        "RABBITMQ_NODE_IP_ADDRESS": "127.0.0.1",
        "RABBITMQ_NODE_PORT": str(port),
        "RABBITMQ_DIST_PORT": str(free_port()),
        "ERL_EPMD_PORT": str(free_port()),
        "RABBITMQ_MNESIA_BASE": str(directory / "mnesia"),
        "RABBITMQ_LOG_BASE": str(directory / "log"),
        "RABBITMQ_ENABLED_PLUGINS_FILE": str(directory / "plugins"),
        "RABBITMQ_CONFIG_FILE": str(directory / "conf"),
        "RABBITMQ_CONF_ENV_FILE": str(directory / "environ"),
        # What it would use of two cores is wanted by the tests.
        "RABBITMQ_SERVER_ADDITIONAL_ERL_ARGS": "+sbwt none +S 1:1",
    }
    return Server([program], directory, port, f"amqp://guest:guest@127.0.0.1:{port}//", environ)


@contextlib.contextmanager
def a_redis(directory: Path) -> Iterator[Broker]:
    """Find or start Redis."""
    with _found("REDIS_URL", "redis://localhost:6379/0", directory, redis_server) as url:
        yield of_redis(url)


def of_redis(url: str) -> Broker:
    """Return a broker with keys of its own in a Redis."""
    prefix = f"deadpool-{uuid.uuid4().hex}."
    config = {
        "broker_url": url,
        "result_backend": url,
        "broker_transport_options": {"global_keyprefix": prefix},
        "result_backend_transport_options": {"global_keyprefix": prefix},
        "result_expires": 600,
    }
    return Broker("redis", config)


@contextlib.contextmanager
def a_rabbitmq(directory: Path) -> Iterator[Broker]:
    """Find or start RabbitMQ."""
    results = directory / "results"
    url = "amqp://guest:guest@localhost:5672//"
    with _found("AMQP_URL", url, directory / "server", rabbitmq_server) as url:
        yield of_rabbitmq(url, results)


def of_rabbitmq(url: str, results: Path) -> Broker:
    """Return a broker with a queue of its own in a RabbitMQ, and results in files."""
    results.mkdir(parents=True)
    name = f"deadpool-{uuid.uuid4().hex}"
    config = {
        "broker_url": url,
        "result_backend": f"files:Backend+{results.as_uri()}",
        "task_default_queue": name,
        "control_exchange": name,
        "event_exchange": f"{name}-events",
    }
    return Broker("rabbitmq", config)


@contextlib.contextmanager
def _found(variable: str, standard: str, directory: Path, make: Any) -> Iterator[str]:
    url = os.environ.get(variable)
    if url is not None:
        # Whoever names one wants it to be used, and to know if it can't be.
        yield url
    elif _answers(standard):
        yield standard
    else:
        server: Server = make(directory)
        server.start()
        try:
            yield server.url
        finally:
            server.stop()


def _answers(url: str) -> bool:
    parts = urlsplit(url)
    try:
        with socket.create_connection((parts.hostname or "localhost", parts.port or 0), 1):
            pass
        with Connection(url, connect_timeout=5) as connection:
            connection.connect()
    except Exception:
        # Each transport has its own.
        return False
    return True


def free_port() -> int:
    with socket.socket() as listening:
        listening.bind(("127.0.0.1", 0))
        return int(listening.getsockname()[1])
