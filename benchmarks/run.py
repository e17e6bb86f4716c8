"""Measure Deadpool next to its peers: ``nox -s bench``, or this with ``--wheel``.

Makes an environment for each group of peers that can share one, then runs every workload for every
peer, one process for each, the peers alternately and that several times, and writes the medians.
"""

from __future__ import annotations

import argparse
import contextlib
import datetime
import json
import os
import re
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import profiling
import report
from floor import FLOOR
from peers import OURS, PEERS
from workloads import METRICS, QUOTIENTS, WORKLOADS

HERE = Path(__file__).parent
VENVS = HERE / ".venvs"
PURE = "deadpool-executor==2026.6.1"
LIMIT_SECONDS = 120.0
# What is said of a measurement that took longer; it is not tried in later rounds.
NO_END = "no end"


def make_environments(wheel: Path, homes: set[str]) -> dict[str, str]:
    """Return the interpreter of each environment that is needed, making what is not there yet."""
    wanted = {
        "ours": ["--force-reinstall", "numpy", str(wheel)],
        "pure": [PURE, "numpy"],
        "peers": ["-r", str(HERE / "requirements.txt")],
    }
    pythons = {}
    for home in sorted(homes):
        directory = VENVS / f"{home}-{sys.version_info.major}.{sys.version_info.minor}"
        python = directory / "bin" / "python"
        stamp = directory / "installed"
        content = f"{wanted[home]} {wheel.stat().st_mtime if home == 'ours' else ''}"
        if not stamp.exists() or stamp.read_text() != content:
            subprocess.run([sys.executable, "-m", "venv", str(directory)], check=True)
            install = [str(python), "-m", "pip", "install", "--quiet", *wanted[home]]
            if home == "ours":
                # Reinstall only ourselves: the version number stays the same while we work.
                subprocess.run([*install[:5], "numpy"], check=True)
                install = [*install[:5], "--force-reinstall", "--no-deps", str(wheel)]
            subprocess.run(install, check=True)
            stamp.write_text(content)
        pythons[home] = str(python)
    return pythons


def versions_in(python: str) -> dict[str, str]:
    """Return the versions of what is installed in an environment."""
    listed = subprocess.run(
        [python, "-m", "pip", "list", "--format=json"], check=True, capture_output=True, text=True
    )
    return {entry["name"]: entry["version"] for entry in json.loads(listed.stdout)}


def measure(python: str, peer: str, workload: str, is_tiny: bool) -> dict[str, float | str]:
    """Run one measurement in a session of its own, and end all that it leaves."""
    command = [python, str(HERE / "measure.py"), peer, workload, *(["--tiny"] if is_tiny else [])]
    with tempfile.TemporaryFile("w+") as out, tempfile.TemporaryFile("w+") as err:
        process = subprocess.Popen(command, stdout=out, stderr=err, start_new_session=True)
        outcome = ""
        try:
            process.wait(60.0 if is_tiny else LIMIT_SECONDS)
        except subprocess.TimeoutExpired:
            outcome = NO_END
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        out.seek(0)
        err.seek(0)
        lines = out.read().splitlines()
        if not outcome and process.returncode == 0 and lines:
            figures: dict[str, float | str] = json.loads(lines[-1])
            return figures
        reason = (err.read().strip().splitlines() or ["?"])[-1]
        print(f"  {peer} {workload}: {outcome or 'failed'}: {reason}", file=sys.stderr)
        return {"failed": outcome or reason}


def machine() -> dict[str, Any]:
    """Describe the machine by what decides the figures."""
    model = "unknown"
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            model = line.partition(":")[2].strip()
            break
    return {
        "cpu": model,
        "cpus": len(os.sched_getaffinity(0)),
        "kernel": os.uname().release.partition("-")[0],
        "python": sys.version.split()[0],
    }


def parse_arguments() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--wheel", type=Path, required=True, help="the wheel of this project")
    parser.add_argument("--peer", choices=PEERS, action="append", help="only these")
    parser.add_argument("--workload", choices=WORKLOADS, action="append", help="only these")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--tiny", action="store_true", help="do little, to see that it works")
    parser.add_argument(
        "--profile", action="store_true", help="show where our time goes, with perf; no comparison"
    )
    parser.add_argument(
        "--save", action="store_true", help="write to benchmarks/results and the page in docs"
    )
    options = parser.parse_args()
    if options.save and options.tiny:
        parser.error("figures of --tiny mean nothing, and are not for --save")
    return options


def run(options: argparse.Namespace) -> report.Results:
    """Measure everything that was asked for."""
    peers = options.peer or list(PEERS)
    workloads = options.workload or list(WORKLOADS)
    homes = {PEERS[peer].home for peer in peers} | {"ours"}
    pythons = make_environments(options.wheel.resolve(), homes)
    results = report.Results(
        date=datetime.datetime.now(datetime.timezone.utc).date().isoformat(),
        machine=machine(),
        versions={home: versions_in(python) for home, python in pythons.items()},
        rounds=1 if options.tiny else options.rounds,
    )
    begun = time.monotonic()
    endless = set()
    for turn in range(results.rounds):
        for name in FLOOR:
            results.floor.setdefault(name, [])
        for name, value in measure(pythons["ours"], "floor", "floor", options.tiny).items():
            results.floor.setdefault(name, []).append(value)
        for workload in workloads:
            # The order turns from round to round, so that no peer is always the first.
            for peer in peers[turn % len(peers) :] + peers[: turn % len(peers)]:
                if (peer, workload) in endless:
                    continue
                figures = measure(pythons[PEERS[peer].home], peer, workload, options.tiny)
                if "failed" in figures:
                    failure = figures.pop("failed")
                    results.failures.append(f"{peer} {workload}, round {turn + 1}: {failure}")
                    if failure == NO_END:
                        endless.add((peer, workload))
                for metric, value in figures.items():
                    results.add(metric, peer, value)
            print(
                f"{time.monotonic() - begun:6.0f} s  round {turn + 1}/{results.rounds}  {workload}",
                file=sys.stderr,
                flush=True,
            )
    for name, (dividend, divisor, peer) in QUOTIENTS.items():
        results.divide(name, OURS, dividend, divisor, peer)
    return results


def main() -> int:
    """Return the exit code: 1 if a measurement of ours failed."""
    options = parse_arguments()
    if options.profile:
        python = make_environments(options.wheel.resolve(), {"ours"})["ours"]
        shown = [profiling.show(python, OURS, name) for name in options.workload or ["noop"]]
        return max(shown)
    results = run(options)
    print(report.table(results, METRICS, FLOOR, OURS, list(options.peer or PEERS)))
    if options.tiny:
        print("tiny counts were used: this shows that it works, and the figures mean nothing")
    if options.save:
        directory = HERE / "results"
        report.save(results, directory, METRICS, FLOOR, OURS, list(PEERS))
        chart = report.chart(results, METRICS, OURS)
        docs = HERE.parent / "docs"
        (docs / "benchmarks.svg").write_text(chart)
        page = docs / "benchmarks.rst"
        table = f"results/{results.date}.txt"
        page.write_text(re.sub(r"results/[\d-]+\.txt", table, page.read_text()))
    return int(any(failure.startswith(f"{OURS} ") for failure in results.failures))


if __name__ == "__main__":
    sys.exit(main())
