"""Count the words of every Python file below a directory with ``multiprocessing.Pool``'s interface.

Run it as it stands: ``python examples/word_counts.py [DIR]``; without an argument it takes the
interpreter's own standard library. It is a program as one writes it for ``multiprocessing``; what was
changed for Deadpool is one import, and ``--standard`` runs it on the old one. A file that kills its
worker (``--crash`` makes one do so) fails alone: with the standard library's pool the program would
wait for ever. The exit code is 1 if the counts differ from those made without a pool.
"""

from __future__ import annotations

import argparse
import multiprocessing
import os
import re
import signal
import sys
import sysconfig
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import deadpool.pool

WORD = re.compile(r"[A-Za-z_]\w+")
MOST_COMMON = 10

crash_name: str | None = None


def initialize(name: str | None) -> None:
    """Remember which file is to kill its worker."""
    global crash_name
    crash_name = name


def count_words(path: str) -> Counter[str]:
    """Count the words of a file; this runs in a worker."""
    if Path(path).name == crash_name:
        os.kill(os.getpid(), signal.SIGKILL)
    return Counter(WORD.findall(Path(path).read_text(encoding="utf-8", errors="replace")))


def walk(top: Path) -> Iterator[str]:
    """Yield the Python files below a directory, in a stable order."""
    for path in sorted(top.rglob("*.py")):
        if path.is_file() and "site-packages" not in path.parts:
            yield str(path)


def run(paths: list[str], *, standard: bool, workers: int | None, crash: str | None) -> int:
    """Count, compare and report; return the exit code."""
    # The swap: everything below is as it was.
    pool_class = multiprocessing.Pool if standard else deadpool.pool.Pool
    total: Counter[str] = Counter()
    lost = 0
    begun = time.perf_counter()
    with pool_class(workers, initialize, (crash,)) as pool:
        results = pool.imap(count_words, paths)
        while True:
            try:
                total.update(next(results))
            except StopIteration:
                break
            except deadpool.pool.WorkerLostError as error:
                lost += 1
                print(f"lost: {str(error).splitlines()[0]}")
        longest = pool.map(len, total, chunksize=1000)
    seconds = time.perf_counter() - begun
    print(f"{len(paths) - lost:,} files, {total.total():,} words in {seconds:.2f} s")
    print(f"{len(total):,} different ones, the longest of {max(longest, default=0)} characters")
    for word, count in total.most_common(MOST_COMMON):
        print(f"{count:>9,}  {word}")
    expected: Counter[str] = Counter()
    for path in paths:
        if Path(path).name != crash:
            expected.update(count_words(path))
    if total != expected:
        print("differs from the same work without a pool", file=sys.stderr)
        return 1
    print("the same work without a pool gives the same counts")
    return 0


def main() -> int:
    """Return the exit code."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    default = Path(sysconfig.get_path("stdlib"))
    parser.add_argument("directory", nargs="?", type=Path, default=default, metavar="DIR")
    parser.add_argument("--workers", type=int, help="worker processes (default: usable CPUs)")
    parser.add_argument("--standard", action="store_true", help="use the standard library's pool")
    parser.add_argument("--crash", metavar="NAME", help="files of this name kill their worker")
    options = parser.parse_args()
    paths = list(walk(options.directory))
    if not paths:
        print(f"no Python files below {options.directory}", file=sys.stderr)
        return 2
    return run(paths, standard=options.standard, workers=options.workers, crash=options.crash)


if __name__ == "__main__":
    sys.exit(main())
