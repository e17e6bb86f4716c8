"""Measure one workload of one peer, in this process, and print the figures as JSON.

``run.py`` runs this, with the interpreter of the peer's environment.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import warnings

import floor
from peers import PEERS, NotSupportedError
from workloads import WORKLOADS, Scale


def main() -> None:
    """Print one line of JSON and leave at once: what a pool left running is the caller's to end."""
    warnings.simplefilter("ignore")
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("peer", choices=[*PEERS, "floor"])
    parser.add_argument("workload", choices=[*WORKLOADS, "floor"])
    parser.add_argument("--tiny", action="store_true")
    options = parser.parse_args()
    scale = Scale(options.tiny)
    try:
        if options.peer == "floor":
            figures = floor.measure(options.tiny)
        else:
            figures = WORKLOADS[options.workload](PEERS[options.peer], scale)
    except NotSupportedError:
        figures = {}
    print(json.dumps(figures), flush=True)
    sys.stdout.flush()
    os._exit(0)


if __name__ == "__main__":
    main()
