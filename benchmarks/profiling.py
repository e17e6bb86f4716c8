"""Where the time of a workload goes: by process and thread, by library, by function.

Uses Linux's ``perf``, which sees native code and the kernel, and every thread and child.
"""

from __future__ import annotations

import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

HERE = Path(__file__).parent
SAMPLES_PER_SECOND = 4999
VIEWS = {
    "threads": ("comm", 0.5),
    "threads and libraries": ("comm,dso", 1.0),
    "functions": ("comm,dso,symbol", 0.7),
}


def show(python: str, peer: str, workload: str) -> int:
    """Run a workload under ``perf`` and print where the time went; return an exit code.

    :param python: The interpreter of the peer's environment.
    """
    perf = shutil.which("perf")
    if perf is None:
        print("--profile needs perf, in Debian's package linux-perf", file=sys.stderr)
        return 2
    with tempfile.TemporaryDirectory() as directory:
        data = str(Path(directory, "perf.data"))
        record = [perf, "record", "--quiet", f"--freq={SAMPLES_PER_SECOND}", f"--output={data}"]
        command = [python, str(HERE / "measure.py"), peer, workload]
        recorded = subprocess.run([*record, "--", *command], check=False)
        if recorded.returncode != 0:
            return recorded.returncode
        for title, (sort, percent) in VIEWS.items():
            print(f"\n{peer} {workload}: {title}\n", flush=True)
            report = [perf, "report", "--stdio", "--no-children", f"--input={data}"]
            fields = [f"--sort={sort}", f"--percent-limit={percent}"]
            out = subprocess.run(
                [*report, *fields], check=True, capture_output=True, text=True
            ).stdout
            lines = [line for line in out.splitlines() if line.strip() and line[0] != "#"]
            print("\n".join(lines))
    return 0
