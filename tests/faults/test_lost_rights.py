"""Processes that can't be signalled or followed: a parent without descriptors, or without its rights."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from processes import run_script


@pytest.mark.parametrize("start_method", ["forkserver", "spawn"])
def test_a_moment_without_descriptors_costs_no_running_task(
    tmp_path: Path, start_method: str
) -> None:
    out, err = run_script(
        tmp_path,
        f"""
        import logging, processes, resource
        logging.basicConfig(level=logging.CRITICAL)
        pool = deadpool.Deadpool(4, mp_context={start_method!r})
        hold = [pool.submit(tasks.hold, here / f"begun{{n}}", here / "release") for n in range(3)]
        for n in range(3):
            processes.await_path(here / f"begun{{n}}")
        soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
        resource.setrlimit(resource.RLIMIT_NOFILE, (128, hard))
        hoarded, hoards, ends = [], threading.Event(), threading.Event()
        def hoard():
            # Takes each descriptor that comes free, so that none is left for what zygotes send.
            while not ends.is_set():
                hoards.wait(0.01)
                while hoards.is_set():
                    try:
                        hoarded.append(os.dup(0))
                    except OSError:
                        pass
        hoarder = threading.Thread(target=hoard)
        hoarder.start()
        for _ in range(25):
            pool.submit(tasks.nothing).result(20)
            idle = [worker.pid for worker in pool.workers() if worker.state == "idle"]
            hoards.set()
            for pid in idle:
                os.kill(pid, signal.SIGKILL)
            time.sleep(0.03)
            hoards.clear()
            while hoarded:
                os.close(hoarded.pop())
        ends.set()
        hoarder.join()
        while hoarded:
            os.close(hoarded.pop())
        (here / "release").touch()
        print([future.exception(20) for future in hold])
        print(pool.submit(tasks.add, 1, 1).result(20))
        pool.shutdown()
        """,
    )
    assert out == "[None, None, None]\n2\n", err


needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root can give up its rights")


@needs_root
@pytest.mark.parametrize("start_method", ["forkserver", "spawn", "fork"])
def test_a_deadline_holds_after_the_parent_has_given_up_its_rights(
    tmp_path: Path, start_method: str
) -> None:
    tmp_path.chmod(0o777)
    for parent in tmp_path.parents:
        if parent.stat().st_uid == os.getuid() and parent != Path("/tmp"):
            parent.chmod(parent.stat().st_mode | 0o055)
    out, err = run_script(
        tmp_path,
        f"""
        pool = deadpool.Deadpool(2, mp_context={start_method!r})
        pool.submit(os.getpid).result()
        # What can't be imported any more then.
        known = deadpool.TimeoutError, deadpool.SoftTimeoutError, deadpool.CancelledError
        os.setgroups([]); os.setgid(65534); os.setuid(65534)
        late = pool.submit(tasks.sleep, 3600, deadpool_timeout=0.3)
        error = late.exception(20)
        # No code of it runs any more.
        def runs(pid):
            try:
                return open(f"/proc/{{pid}}/stat").read().rsplit(")", 1)[1].split()[0] not in "ZX"
            except OSError:
                return False
        print(type(error).__name__, runs(error.pid))
        soft = pool.submit(tasks.sleep, 3600, deadpool_soft_timeout=0.3)
        print(repr(soft.exception(20)).partition("(")[0])
        gone = pool.submit(tasks.sleep, 3600)
        while not gone.running():
            time.sleep(0.01)
        gone.cancel_and_kill_if_running()
        began = time.monotonic()
        pool.shutdown(cancel_futures=True)
        print(time.monotonic() - began < 5)
        """,
    )
    assert out == "TimeoutError False\nSoftTimeoutError\nTrue\n", err
