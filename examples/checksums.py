"""Hash and compress every file below a directory, each file a task with its own deadline.

Run it as it stands: ``python examples/checksums.py [DIR]``. Without an argument it takes the
interpreter's own standard library. It shows progress, ends with a table, and does a sample of the
files again without the pool: the exit code is 1 if that differs, and 2 if there was nothing to do.
"""

from __future__ import annotations

import argparse
import hashlib
import itertools
import os
import random
import sys
import sysconfig
import time
import zlib
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import deadpool

CHUNK_BYTES = 1 << 20
COMPRESSION_LEVEL = 6


@dataclass(frozen=True)
class Checksum:
    """What is computed of one file."""

    sha256: str
    size_bytes: int
    compressed_bytes: int


def checksum(path: str) -> Checksum:
    """Read the file once, and hash and compress it on the way; this runs in a worker."""
    digest = hashlib.sha256()
    compressor = zlib.compressobj(COMPRESSION_LEVEL)
    size_bytes = compressed_bytes = 0
    with Path(path).open("rb") as file:
        while chunk := file.read(CHUNK_BYTES):
            digest.update(chunk)
            size_bytes += len(chunk)
            compressed_bytes += len(compressor.compress(chunk))
    compressed_bytes += len(compressor.flush())
    return Checksum(digest.hexdigest(), size_bytes, compressed_bytes)


@dataclass
class Report:
    """What came of all files."""

    done: dict[str, Checksum] = field(default_factory=dict)
    failed: dict[str, BaseException] = field(default_factory=dict)
    seconds: float = 0.0

    def print(self) -> None:
        """Print totals, throughput and failures as a table."""
        size_bytes = sum(entry.size_bytes for entry in self.done.values())
        compressed_bytes = sum(entry.compressed_bytes for entry in self.done.values())
        seconds = max(self.seconds, 1e-9)
        distinct = len({entry.sha256 for entry in self.done.values()})
        rows = [
            ("files", f"{len(self.done):,}"),
            ("distinct contents", f"{distinct:,}"),
            ("failures", f"{len(self.failed):,}"),
            ("bytes", f"{size_bytes:,}"),
            ("bytes, compressed", f"{compressed_bytes:,} ({ratio(compressed_bytes, size_bytes)})"),
            ("seconds", f"{self.seconds:.2f}"),
            ("files per second", f"{len(self.done) / seconds:,.0f}"),
            ("MB per second", f"{size_bytes / 1e6 / seconds:,.1f}"),
        ]
        width = max(len(name) for name, _ in rows)
        for name, value in rows:
            print(f"{name:<{width}}  {value}")
        for kind, count in Counter(type(e).__name__ for e in self.failed.values()).items():
            print(f"{'  of these ' + kind:<{width}}  {count:,}")
        for path, error in list(self.failed.items())[:5]:
            print(f"failed: {path}: {str(error).splitlines()[0] if str(error) else error!r}")


def ratio(part: int, whole: int) -> str:
    """Return a percentage, also of nothing."""
    return f"{part / whole:.1%}" if whole else "-"


def walk(top: Path, pruned: str | None = None) -> Iterator[str]:
    """Yield the regular files below a directory in a stable order; links are not followed."""
    for directory, subdirectories, names in os.walk(top):
        subdirectories[:] = sorted(name for name in subdirectories if name != pruned)
        for name in sorted(names):
            path = Path(directory, name)
            if path.is_file() and not path.is_symlink():
                yield str(path)


class PlainBar:
    """Progress as a line for each tenth, where tqdm is not installed."""

    def __init__(self, total: int) -> None:
        self.total, self.count = total, 0

    def update(self) -> None:
        """Count one more."""
        self.count += 1
        if self.count * 10 // self.total > (self.count - 1) * 10 // self.total:
            print(f"{self.count}/{self.total} files", file=sys.stderr)

    def close(self) -> None:
        """Do nothing: each line was complete."""


def progress_bar(total: int) -> Any:
    """Return a bar to update and to close: that of tqdm if it is installed."""
    try:
        from tqdm import tqdm
    except ImportError:
        return PlainBar(total)
    return tqdm(total=total, unit="file", mininterval=0.2)


def run(paths: list[str], *, workers: int | None, timeout_seconds: float) -> Report:
    """Do all files in a pool; a file that fails, hangs or kills its worker costs only itself."""
    report = Report()
    begun = time.perf_counter()
    # The bar moves in callbacks, since with many files submit itself waits for room.
    bar = progress_bar(len(paths))
    with deadpool.Deadpool(max_workers=workers) as exe:
        pending = {}
        for path in paths:
            pending[path] = exe.submit(checksum, path, deadpool_timeout=timeout_seconds)
            pending[path].add_done_callback(lambda _: bar.update())
        for path, future in pending.items():
            error = future.exception()
            if error is None:
                report.done[path] = future.result()
            else:
                report.failed[path] = error
    bar.close()
    report.seconds = time.perf_counter() - begun
    return report


def differing(report: Report, sample: int) -> list[str]:
    """Do a sample of the files again, without the pool, and list those that differ."""
    paths = sorted(report.done)
    chosen = random.Random(len(paths)).sample(paths, min(sample, len(paths)))
    return [path for path in chosen if checksum(path) != report.done[path]]


def parse_arguments() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("directory", nargs="?", type=Path, metavar="DIR")
    parser.add_argument("--workers", type=int, help="worker processes (default: usable CPUs)")
    parser.add_argument(
        "--timeout", type=float, default=30.0, help="seconds that one file may take (default: 30)"
    )
    parser.add_argument(
        "--sample", type=int, default=50, help="files to do again without the pool (default: 50)"
    )
    parser.add_argument("--limit", type=int, help="stop after this many files")
    return parser.parse_args()


def main() -> int:
    """Return the exit code."""
    options = parse_arguments()
    # What was installed into the standard library's directory is not part of it.
    top = options.directory or Path(sysconfig.get_path("stdlib"))
    pruned = None if options.directory else "site-packages"
    paths = list(itertools.islice(walk(top, pruned), options.limit))
    if not paths:
        print(f"no files below {top}", file=sys.stderr)
        return 2
    print(f"{len(paths):,} files below {top}")
    report = run(paths, workers=options.workers, timeout_seconds=options.timeout)
    report.print()
    wrong = differing(report, options.sample)
    for path in wrong:
        print(f"differs from the same work without the pool: {path}")
    if not wrong:
        print(f"a sample of {min(options.sample, len(report.done))} is right")
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
