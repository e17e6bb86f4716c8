"""What a pool tells of a worker."""

from __future__ import annotations

from types import SimpleNamespace


class WorkerInfo(SimpleNamespace):
    """A worker, as it is now.

    :param pid: Its process id; None until there is a process.
    :param state: ``"starting"``, ``"idle"``, ``"busy"``, ``"retiring"`` or ``"stopping"``.
    :param task: Module and qualified name of the function that it runs.
    :param running_seconds: For how long it has been running it.
    :param tasks_done: How many tasks have ended on it.
    :param rss_bytes: Its resident memory.
    """

    __module__ = "deadpool"

    pid: int | None
    state: str
    task: str | None
    running_seconds: float | None
    tasks_done: int
    rss_bytes: int | None

    def __init__(
        self,
        pid: int | None,
        state: str,
        task: str | None,
        running_seconds: float | None,
        tasks_done: int,
        rss_bytes: int | None,
    ) -> None:
        super().__init__(
            pid=pid,
            state=state,
            task=task,
            running_seconds=running_seconds,
            tasks_done=tasks_done,
            rss_bytes=rss_bytes,
        )
