"""Let urgent work overtake what is already waiting: ``python examples/priorities.py``.

A batch of reports waits for a pool that is busy. The questions of a user come last, with a higher
priority, and are answered first.
"""

from __future__ import annotations

import sys
import time

import deadpool

REPORT, QUESTION = 10, 0  # 0 is the highest priority.


def work(name: str, seconds: float) -> tuple[str, float]:
    """Take a while, and return when it was done."""
    time.sleep(seconds)
    return name, time.monotonic()


def main() -> int:
    """Return the exit code: 1 if a report was done before the last question."""
    with deadpool.Deadpool(max_workers=2) as exe:
        # While both workers are busy, everything else waits, and can be put in order.
        for _ in range(2):
            exe.submit(work, "busy", 0.2)
        reports = [
            exe.submit(work, f"report {i}", 0.05, deadpool_priority=REPORT) for i in range(10)
        ]
        questions = [
            exe.submit(work, f"question {i}", 0.05, deadpool_priority=QUESTION) for i in range(4)
        ]
        done = sorted((f.result() for f in [*reports, *questions]), key=lambda entry: entry[1])
    print("done in this order:", ", ".join(name for name, _ in done))
    return 0 if all(name.startswith("question") for name, _ in done[:4]) else 1


if __name__ == "__main__":
    sys.exit(main())
