"""The least that an installed wheel must do, from a directory that has no sources."""

from __future__ import annotations

import importlib.metadata
import os
import sys
from pathlib import Path

import deadpool


def main() -> None:
    """Use the pool as its first user would, then see that it survives a death."""
    here = Path(deadpool.__file__).resolve()
    if not here.is_relative_to(Path(sys.prefix).resolve()):
        sys.exit(f"deadpool was imported from {here}, and not from the environment")
    distribution = importlib.metadata.distribution("deadpool-executor")
    required = [line for line in distribution.requires or [] if "extra ==" not in line]
    if required:
        sys.exit(f"the wheel requires {required}")
    with deadpool.Deadpool(max_workers=2) as exe:
        assert list(exe.map(pow, range(100), [2] * 100)) == [i * i for i in range(100)]
        died = exe.submit(os._exit, 7)
        assert isinstance(died.exception(timeout=10), deadpool.ProcessError)
        assert exe.submit(pow, 2, 10).result(timeout=10) == 1024
    print(f"deadpool {distribution.version} works, installed at {here.parent}")


if __name__ == "__main__":
    main()
