"""Programs that are not as usual: without standard streams, with a long path, with an event loop."""

from __future__ import annotations

from pathlib import Path

import pytest
from pools import START_METHODS
from processes import run_script


@pytest.mark.parametrize("start_method", START_METHODS)
def test_a_program_that_has_closed_its_standard_streams(tmp_path: Path, start_method: str) -> None:
    run_script(
        tmp_path,
        f"""
        os.closerange(0, 3)
        pool = deadpool.Deadpool(2, mp_context={start_method!r})
        streams, opened = pool.submit(tasks.standard_streams).result(20)
        pool.submit(tasks.kill_itself, 9).exception(20)
        again, _ = pool.submit(tasks.standard_streams).result(20)
        ours = []
        for fd in range(3):
            try:
                ours.append(os.readlink(f"/proc/self/fd/{{fd}}"))
            except OSError:
                pass
        (here / "told").write_text(repr((streams, again, opened > 2, ours)))
        pool.shutdown()
        """,
    )
    null = ["/dev/null"] * 3
    assert (tmp_path / "told").read_text() == repr((null, null, True, null))


@pytest.mark.parametrize("start_method", ["forkserver", "spawn"])
def test_a_path_longer_than_a_command_line(tmp_path: Path, start_method: str) -> None:
    out, _ = run_script(
        tmp_path,
        f"""
        with deadpool.Deadpool(1, mp_context={start_method!r}) as pool:
            print(pool.submit(tasks.add, 1, 1).result(30))
        """,
        head="sys.path += [f'/nowhere/{n:05}/' + 'x' * 150 for n in range(2000)]",
    )
    assert out == "2\n"


@pytest.mark.parametrize("how", ["kill", "terminate_workers"])
@pytest.mark.parametrize("start_method", START_METHODS)
def test_a_signal_to_a_worker_is_not_one_to_the_parent(
    tmp_path: Path, start_method: str, how: str
) -> None:
    end = {
        "kill": "os.kill(pid, signal.SIGTERM)",
        "terminate_workers": "pool.terminate_workers()",
    }[how]
    out, _ = run_script(
        tmp_path,
        f"""
        import asyncio
        async def main():
            loop = asyncio.get_running_loop()
            loop.add_signal_handler(signal.SIGTERM, lambda: print("shut down", flush=True))
            pool = deadpool.Deadpool(1, mp_context={start_method!r})
            pid = await pool.asubmit(os.getpid)
            future = pool.submit(tasks.sleep, 3600)
            while not future.running():
                await asyncio.sleep(0.01)
            {end}
            while not future.done():
                await asyncio.sleep(0.01)
            await asyncio.sleep(0.2)
            print("goes on")
            pool.shutdown(wait=False, cancel_futures=True)
        asyncio.run(main())
        """,
    )
    assert out == "goes on\n"


def test_a_signal_handler_may_make_a_pool_while_one_is_made(tmp_path: Path) -> None:
    out, _ = run_script(
        tmp_path,
        """
        # All imports first, whose locks are the interpreter's.
        with deadpool.Deadpool(1) as pool:
            pool.submit(tasks.nothing).result()
        from deadpool._start.fork_server import server
        made = []
        def make(*_):
            signal.setitimer(signal.ITIMER_REAL, 0)
            with deadpool.Deadpool(1) as pool:
                made.append(pool.submit(tasks.add, 1, 1).result(20))
        signal.signal(signal.SIGALRM, make)
        for microseconds in range(200, 6000, 400):
            if server.pid is not None:
                os.kill(server.pid, signal.SIGKILL)
            signal.setitimer(signal.ITIMER_REAL, microseconds / 1e6)
            with deadpool.Deadpool(1) as pool:
                assert pool.submit(tasks.add, 2, 2).result(20) == 4
            signal.setitimer(signal.ITIMER_REAL, 0)
        print(set(made))
        """,
    )
    assert out == "{2}\n"


@pytest.mark.parametrize("how", ["handler", "finalizer"])
def test_a_task_that_is_submitted_while_the_environment_is_copied(tmp_path: Path, how: str) -> None:
    act = {
        "handler": "os.kill(os.getpid(), signal.SIGALRM)",
        "finalizer": "Finalized()",
    }[how]
    out, _ = run_script(
        tmp_path,
        f"""
        from collections.abc import Mapping
        nested, submitted = [], []
        def submit(*_):
            if not nested:
                nested.append(True)
                submitted.append(pool.submit(tasks.environ, "NAME"))
        signal.signal(signal.SIGALRM, submit)
        class Finalized:
            def __del__(self):
                submit()
        class Environ(Mapping):
            def __init__(self):
                self.value = "first"
            def __getitem__(self, name):
                if self.value == "second":
                    {act}
                return self.value
            def __iter__(self):
                return iter(["NAME"])
            def __len__(self):
                return 1
        environ = Environ()
        pool = deadpool.Deadpool(1, propagate_environ=environ)
        environ.value = "second"
        pool.clear_workers()
        nested.clear()
        print(pool.submit(tasks.environ, "NAME").result(20), submitted[0].result(20))
        pool.shutdown()
        """,
    )
    assert out == "second second\n"
