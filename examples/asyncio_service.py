"""Serve requests from an event loop that never blocks: ``python examples/asyncio_service.py``.

Each request is worked on in the pool. ``asubmit`` waits for room without blocking the loop, a
client that goes away takes its work with it, and a request that hangs is stopped at its deadline.
"""

from __future__ import annotations

import asyncio
import hashlib
import itertools
import sys
import time

import deadpool


def answer(request: str) -> str:
    """Do some real work; or hang, as real work does at times."""
    if request == "hang":
        time.sleep(3600)
    return hashlib.pbkdf2_hmac("sha256", request.encode(), b"salt", 20_000).hex()[:16]


async def heartbeat(beats: list[float]) -> None:
    """Note when the loop was free; a blocked loop would leave a gap."""
    while True:
        beats.append(time.monotonic())
        await asyncio.sleep(0.01)


async def serve(exe: deadpool.Deadpool, request: str) -> str:
    """Answer one request within a second."""
    try:
        return str(await exe.asubmit(answer, request, deadpool_timeout=1.0))
    except deadpool.TimeoutError:
        return "sorry, that took too long"


async def main() -> int:
    """Return the exit code: 1 if the loop was blocked or an answer is wrong."""
    beats: list[float] = []
    pulse = asyncio.create_task(heartbeat(beats))
    # Room for eight, so that the rest have to wait for it.
    with deadpool.Deadpool(max_workers=2, max_backlog=8, kill_on_cancel=True) as exe:
        requests = [f"request {i}" for i in range(60)] + ["hang"]
        client = asyncio.create_task(exe.asubmit(answer, "hang"))
        answers = await asyncio.gather(*(serve(exe, request) for request in requests))
        client.cancel()
        await asyncio.wait([client])
    pulse.cancel()
    gap = max(after - before for before, after in itertools.pairwise(beats))
    print(f"{len(answers) - 1} answers, and: {answers[-1]}")
    print(f"the client that went away: {'cancelled' if client.cancelled() else 'still there'}")
    print(f"the event loop was never away for more than {gap * 1e3:.0f} ms")
    is_right = all(a == answer(r) for r, a in zip(requests[:3], answers, strict=False))
    return 0 if is_right and answers[-1].startswith("sorry") and gap < 0.9 else 1


if __name__ == "__main__":
    sys.exit(asyncio.run(main()))
