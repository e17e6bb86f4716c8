"""The command line of the chaos runs."""

from __future__ import annotations

import argparse
import dataclasses
import faulthandler
import itertools
import json
import logging
import multiprocessing
import os
import random
import sys
import tempfile
import warnings
from pathlib import Path

import deadpool

from ..support.processes import become_subreaper
from . import run as runs
from . import soak, work

METHODS = ["forkserver", "spawn", "fork"]


def parse() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(prog="python -m tests.chaos", description=__doc__)
    parser.add_argument("--seed", type=int, help="of the run, or of the first; random by default")
    parser.add_argument("--tasks", type=int, default=400, help="of one run")
    parser.add_argument("--method", choices=METHODS, help="by default each in turn")
    parser.add_argument("--minutes", type=float, help="make run after run for so long")
    parser.add_argument("--keep-going", action="store_true", help="after a run that failed, too")
    parser.add_argument("--json", action="store_true", help="print the result for a program")
    return parser.parse_args()


def main() -> int:
    """Do what the command line says."""
    options = parse()
    seed = random.SystemRandom().randrange(10**9) if options.seed is None else options.seed
    if options.minutes is not None:
        methods = [options.method] if options.method else METHODS
        seeds = itertools.count(seed)
        totals = soak.soak(seeds, options.tasks, methods, options.minutes, options.keep_going)
        print(totals.show())
        return int(bool(totals.failed))
    result = run_one(seed, options.tasks, options.method or "forkserver")
    if result.problems:
        print(f"seed {result.seed} failed:", *result.problems, sep="\n  ")
        print("faults:", *result.history[-60:], sep="\n  ")
        print("again:", "python", *soak.command(seed, options.tasks, result.method))
        return 1
    print(json.dumps(dataclasses.asdict(result)) if options.json else result)
    return 0


def run_one(seed: int, tasks: int, method: str) -> runs.Result:
    """Make one run in this process."""
    # A run that is stuck says where.
    faulthandler.dump_traceback_later(soak.STUCK_SECONDS - 10, exit=True)
    become_subreaper()
    logging.getLogger("deadpool").setLevel(logging.CRITICAL)
    logging.getLogger("concurrent.futures").setLevel(logging.CRITICAL)
    warnings.filterwarnings("ignore", ".*fork", DeprecationWarning)
    warnings.filterwarnings("ignore", "resource_tracker: process died", UserWarning)
    os.environ["PYTHONPATH"] = os.pathsep.join([str(soak.ROOT), os.environ.get("PYTHONPATH", "")])
    multiprocessing.set_forkserver_preload([work.__name__])
    with deadpool.Deadpool(1, mp_context=method) as pool:
        # What is started once and stays: the fork server, the resource tracker.
        pool.submit(pow, 2, 3).result(soak.STUCK_SECONDS)
    with tempfile.TemporaryDirectory(prefix="deadpool-chaos-") as directory:
        result = runs.run(seed, tasks, method, Path(directory))
    faulthandler.cancel_dump_traceback_later()
    return result


if __name__ == "__main__":
    sys.exit(main())
