"""Many runs, each in a process of its own, and the sum of what they did."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[2]
# How long a run may take before it counts as stuck.
STUCK_SECONDS = 400.0


class Totals:
    """What many runs did."""

    def __init__(self) -> None:
        self.runs: Counter[str] = Counter()
        self.tasks: Counter[str] = Counter()
        self.sums: dict[str, Counter[str]] = {
            name: Counter() for name in ("faults", "ends", "meddling")
        }
        self.failed: list[str] = []

    def add(self, result: dict[str, Any]) -> None:
        """Count a run."""
        self.runs[result["method"]] += 1
        self.tasks[result["method"]] += result["tasks"]
        for name, counter in self.sums.items():
            counter.update(result[name])

    def show(self) -> str:
        """Return the sums as text."""
        lines = [f"runs: {dict(self.runs)}", f"tasks: {dict(self.tasks)}"]
        for name, counter in self.sums.items():
            lines.append(f"{name}: {sum(counter.values())}")
            lines += [f"  {count:8} {what}" for what, count in sorted(counter.items())]
        lines += [f"FAILED: {command}" for command in self.failed]
        return "\n".join(lines)


def command(seed: int, tasks: int, method: str) -> list[str]:
    """Return what makes one run."""
    options = ["--seed", str(seed), "--tasks", str(tasks), "--method", method]
    return ["-m", "tests.chaos", *options]


def run_apart(seed: int, tasks: int, method: str) -> dict[str, Any] | str:
    """Make one run in a process of its own. Return what it did, or what was wrong."""
    arguments = [sys.executable, *command(seed, tasks, method), "--json"]
    again = " ".join(["python", *command(seed, tasks, method)])
    with subprocess.Popen(
        arguments,
        cwd=ROOT,
        text=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        # So that what is left of it can be told from what belongs to this process.
        start_new_session=True,
    ) as process:
        try:
            out, err = process.communicate(timeout=STUCK_SECONDS)
        except subprocess.TimeoutExpired:
            process.kill()
            out, err = process.communicate()
            return f"stuck; to see it again: {again}\n{out}\n{err}"
    if process.returncode:
        return f"exit code {process.returncode}; to see it again: {again}\n{out}\n{err}"
    result: dict[str, Any] = json.loads(out.splitlines()[-1])
    return result


def soak(
    seeds: Iterator[int], tasks: int, methods: list[str], minutes: float, keep_going: bool
) -> Totals:
    """Run seed after seed, each by the next start method. Blocks until the time is over."""
    totals = Totals()
    end = time.monotonic() + minutes * 60
    for turn, seed in enumerate(seeds):
        if time.monotonic() > end:
            break
        result = run_apart(seed, tasks, methods[turn % len(methods)])
        if isinstance(result, str):
            print(result, flush=True)
            totals.failed.append(" ".join(command(seed, tasks, methods[turn % len(methods)])))
            if not keep_going:
                break
        else:
            totals.add(result)
            text = f"seed {seed} {result['method']}: {result['tasks']} tasks"
            print(f"{text}, {sum(result['faults'].values())} faults", flush=True)
    return totals


def decisions(seed: int, tasks: int) -> str:
    """Return what a seed decides, as text."""
    code = (
        "from tests.chaos import run, work; import random;"
        f"print(run.Plan.draw({seed}));"
        f"rng = random.Random('{seed} submitter 0');"
        f"print([work.draw(rng, number, 'log').kind for number in range({tasks})])"
    )
    return subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, check=True, capture_output=True, text=True
    ).stdout
