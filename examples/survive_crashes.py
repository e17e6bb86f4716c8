"""Do everything to a pool that kills others, and go on: ``python examples/survive_crashes.py``.

Tasks crash, exit, hang, are killed from outside and return what cannot be pickled, between tasks
that just work. Each bad one fails alone, and its future says why.
"""

from __future__ import annotations

import ctypes
import os
import re
import signal
import sys
import time
from collections.abc import Callable

import deadpool


def square(number: int) -> int:
    """Just work."""
    return number * number


def crash() -> int:
    """Read from an address that is nobody's."""
    return int(ctypes.cast(8, ctypes.POINTER(ctypes.c_int))[0])


def leave() -> None:
    """End the process behind the pool's back."""
    os._exit(3)


def be_killed() -> None:
    """Die as at the hands of the kernel when memory runs out."""
    os.kill(os.getpid(), signal.SIGKILL)


def stop() -> None:
    """Be stopped, which no signal handler can do anything about."""
    os.kill(os.getpid(), signal.SIGSTOP)


def spin_in_c() -> None:
    """Run for ages in C code that holds the interpreter's lock."""
    re.match(r"(a+)+$", "a" * 40 + "b")


def return_nonsense() -> Callable[[], None]:
    """Return what cannot be pickled."""
    return lambda: None


BAD: list[tuple[Callable[[], object], float | None]] = [
    (crash, None),
    (leave, None),
    (be_killed, None),
    (stop, 0.5),
    (spin_in_c, 0.5),
    (return_nonsense, None),
]


def main() -> int:
    """Return the exit code: 1 if a good task failed, or a bad one did not."""
    begun = time.perf_counter()
    with deadpool.Deadpool(max_workers=2) as exe:
        good = [exe.submit(square, number) for number in range(500)]
        bad = [exe.submit(task, deadpool_timeout=timeout) for task, timeout in BAD]
        good += [exe.submit(square, number) for number in range(500, 1000)]
        for (task, _), future in zip(BAD, bad, strict=True):
            error = future.exception()
            print(f"{task.__name__:>16}: {type(error).__name__}: {first_line(error)}")
        failed = [future for future in good if future.exception() is not None]
        wrong = [
            n for n, future in enumerate(good) if future not in failed and future.result() != n * n
        ]
        survived = exe.submit(square, 12).result() == 144
    seconds = time.perf_counter() - begun
    print(
        f"{len(good) - len(failed)} of {len(good)} good tasks were done, in {seconds:.1f} s in all"
    )
    is_well = survived and not failed and not wrong and all(f.exception() for f in bad)
    return 0 if is_well else 1


def first_line(error: BaseException | None) -> str:
    """Return the sentence, without the stack that may follow."""
    return str(error).partition("\n")[0]


if __name__ == "__main__":
    sys.exit(main())
