"""Control groups, which let the kernel itself be short of something for a few processes."""

from __future__ import annotations

import contextlib
import uuid
from collections.abc import Iterator, Mapping
from pathlib import Path

import pytest
from processes import eventually

ROOT = Path("/sys/fs/cgroup")


@contextlib.contextmanager
def control_group(
    controller: str, unified: Mapping[str, object], legacy: Mapping[str, object]
) -> Iterator[Path]:
    """Make a control group, or skip the test where this process may not.

    :param controller: Such as ``memory``.
    :param unified: What is written to which file of the group, in version 2.
    :param legacy: The same in version 1. The first file must be there.
    """
    for root, settings in ((ROOT, unified), (ROOT / controller, legacy)):
        group = root / f"deadpool-test-{uuid.uuid4().hex}"
        with contextlib.suppress(OSError):
            group.mkdir()
        if not group.exists():
            continue
        if not group.joinpath(next(iter(settings))).exists():
            # Another version is in use, or the controller is not for this group's parent to give.
            group.rmdir()
            continue
        try:
            for name, value in settings.items():
                # Without swap there is no limit for it.
                with contextlib.suppress(FileNotFoundError):
                    group.joinpath(name).write_text(str(value))
            yield group
            return
        finally:
            # The last of its processes may be on their way out.
            eventually(lambda group=group: not group.joinpath("cgroup.procs").read_text())
            group.rmdir()
    pytest.skip(f"this process may not make a control group for {controller}")
