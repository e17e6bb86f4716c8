"""Running ``celery worker`` commands."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import project
from brokers import Broker
from celery import Celery
from celery.result import AsyncResult
from kombu import pools
from processes import await_death, eventually, is_alive, reap_orphans, tree

HERE = Path(__file__).parent
WAIT_SECONDS = 20.0
DEFAULTS = {
    "worker_pool": "deadpool.celery:TaskPool",
    "broker_connection_retry_on_startup": True,
    "worker_cancel_long_running_tasks_on_connection_loss": False,
    # Finding out about other workers takes a second at the start, and is not what is tested.
    "worker_disable_rate_limits": True,
}


class Client:
    """Sends tasks to the workers of a broker.

    :param broker: The broker.
    :param config: What is set beside it.
    """

    def __init__(self, broker: Broker, **config: Any) -> None:
        self.app = Celery("client", set_as_current=False)
        self.app.conf.update({**broker.config, **config})

    def s(self, task: str, *args: Any, **kwargs: Any) -> Any:
        """Return the signature of a task of the project."""
        return self.app.signature(f"project.{task}", args=args, kwargs=kwargs)

    def send(self, task: str, *args: Any, **options: Any) -> AsyncResult:
        """Send a task of the project."""
        return self.app.send_task(f"project.{task}", args, **options)

    def run(self, task: str, *args: Any, **options: Any) -> Any:
        """Send a task and wait for its result."""
        return get(self.send(task, *args, **options))

    def close(self) -> None:
        # The server may be gone, or another by now, and each transport says so in its own way.
        with contextlib.suppress(Exception):
            self.app.close()


def get(result: Any, seconds: float = WAIT_SECONDS, **options: Any) -> Any:
    return result.get(timeout=seconds, interval=0.01, **options)


def failure(result: Any, seconds: float = WAIT_SECONDS) -> Any:
    """Wait for the end of a task that must fail, and return its exception."""
    value = get(result, seconds, propagate=False)
    assert isinstance(value, BaseException), value
    return value


class Worker:
    """A ``celery worker`` command.

    :param broker: Where it gets its tasks.
    :param directory: Where it leaves log and notes.
    :param args: Its options.
    :param config: Celery's configuration, beside the broker's.
    :param environ: Its environment, beside the one here.
    """

    def __init__(
        self,
        broker: Broker,
        directory: Path,
        args: tuple[str, ...] = (),
        config: dict[str, Any] | None = None,
        environ: dict[str, str] | None = None,
    ) -> None:
        self.broker = broker
        self.client = Client(broker)
        self.notes = directory / "notes"
        self.notes.mkdir(parents=True)
        self.log_path = directory / "log"
        self.name = f"worker-{id(self):x}@localhost"
        settings = {**DEFAULTS, **broker.config, **(config or {})}
        command = [sys.executable, "-m", "celery", "-A", "project", "worker", "-n", self.name]
        command += ["--without-mingle", "--without-gossip", *args]
        self._command = [*command, "-l", "INFO"] if "-l" not in args else command
        self._environ = {
            **os.environ,
            # To be root is all right in tests.
            "C_FORCE_ROOT": "1",
            "PYTHONPATH": os.pathsep.join([str(HERE), os.environ.get("PYTHONPATH", "")]),
            project.CONFIG: json.dumps(settings),
            project.NOTES: str(self.notes),
            **(environ or {}),
        }
        self.process: subprocess.Popen[bytes] | None = None

    @property
    def pid(self) -> int:
        assert self.process is not None
        return self.process.pid

    def start(self) -> Worker:
        """Start it, and wait until it takes tasks."""
        self.launch()
        eventually(self._is_ready, WAIT_SECONDS)
        return self

    def launch(self) -> Worker:
        """Start it."""
        with self.log_path.open("ab") as log:
            self.process = subprocess.Popen(
                self._command,
                cwd=self.notes,
                env=self._environ,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )
        return self

    def _is_ready(self) -> bool:
        assert self.process is not None
        assert self.process.poll() is None, self.log()
        return bool(self.lines("ready"))

    def log(self) -> str:
        return self.log_path.read_text()

    def lines(self, name: str) -> list[str]:
        """Return what tasks and signals have noted under a name."""
        try:
            return self.notes.joinpath(name).read_text().splitlines()
        except FileNotFoundError:
            return []

    def await_lines(self, name: str, count: int = 1, seconds: float = WAIT_SECONDS) -> list[str]:
        eventually(lambda: len(self.lines(name)) >= count, seconds)
        return self.lines(name)

    def await_log(self, text: str, seconds: float = WAIT_SECONDS) -> None:
        eventually(lambda: text in self.log(), seconds)

    def ask(self, method: str, **kwargs: Any) -> Any:
        """Ask it for something by remote control."""
        inspect = self.client.app.control.inspect([self.name], timeout=WAIT_SECONDS, limit=1)
        return (getattr(inspect, method)(**kwargs) or {})[self.name]

    def command(self, method: str, **arguments: Any) -> Any:
        """Command it something by remote control."""
        (reply,) = self.client.app.control.broadcast(
            method,
            arguments=arguments,
            destination=[self.name],
            reply=True,
            timeout=WAIT_SECONDS,
            limit=1,
        )
        return reply[self.name]

    def pool_stats(self) -> dict[str, Any]:
        stats: dict[str, Any] = self.ask("stats")["pool"]
        return stats

    def worker_pids(self) -> list[int]:
        pids: list[int] = self.pool_stats()["processes"]
        return pids

    def stop(self, number: int = signal.SIGTERM, seconds: float = WAIT_SECONDS) -> int:
        """Send it a signal and wait for its end, and that of all it started."""
        assert self.process is not None
        processes = tree(self.pid)
        if self.process.poll() is None:
            self.process.send_signal(number)
        return self.wait(processes, seconds)

    def wait(self, processes: set[int], seconds: float = WAIT_SECONDS) -> int:
        """Wait for its end and that of the processes it had; return its exit code."""
        assert self.process is not None
        code = self.process.wait(seconds)
        await_death(processes, 2)
        reap_orphans(pid for pid in processes if not is_alive(pid))
        return code

    def reconnect_client(self) -> None:
        """Forget the connections to a server that was restarted."""
        self.client.close()
        # kombu keeps them for all apps that have the same server.
        pools.reset()
        self.client = Client(self.broker)

    def kill(self) -> None:
        """End it, however it is."""
        if self.process is not None and self.process.poll() is None:
            processes = tree(self.pid)
            self.process.kill()
            self.process.wait(WAIT_SECONDS)
            for pid in processes:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
        self.client.close()


# As the fixture `start_worker` has it.
StartWorker = Callable[..., Worker]
