"""The tests of CPython that are not run against Deadpool, each with its reason.

A key is the class that defines the test, and its name. A name that does not exist is an error on
the versions in ``VERIFIED``, so that this list cannot outlive what it is about.
"""

from __future__ import annotations

VERIFIED = {(3, 13)}

PROCESSES = "reads the private attribute _processes"
INTERNALS = "joins threads and queues that are private to ProcessPoolExecutor"
BREAKS = "demands that the pool breaks, which is what Deadpool never does"

LEFT_OUT = {
    "ProcessPoolExecutorTest.test_killed_child": f"{BREAKS}; {PROCESSES}",
    "ProcessPoolExecutorTest.test_saturation": PROCESSES,
    "ProcessPoolExecutorTest.test_idle_process_reuse_one": PROCESSES,
    "ProcessPoolExecutorTest.test_idle_process_reuse_multiple": PROCESSES,
    "ProcessPoolExecutorTest.test_max_tasks_per_child": PROCESSES,
    "ProcessPoolExecutorTest.test_max_tasks_per_child_defaults_to_spawn_context": (
        "reads the private attribute _mp_context; Deadpool's default stays forkserver"
    ),
    "ProcessPoolExecutorTest.test_python_finalization_error": (
        f"{BREAKS}; replaces a private function of threading"
    ),
    "FailingInitializerMixin.test_initializer": (
        f"{BREAKS}; here a failing initializer is logged, or fails the task it was started for"
    ),
    "FailingInitializerResourcesTest.test_spawn": "runs the test above",
    "FailingInitializerResourcesTest.test_forkserver": "runs the test above",
    "ExecutorShutdownTest.test_hang_gh83386": (
        "wants shutdown(wait=False) to run what has not begun; here it is cancelled, as the"
        " table in the README says"
    ),
    "ProcessPoolShutdownTest.test_processes_terminate": PROCESSES,
    "ProcessPoolShutdownTest.test_context_manager_shutdown": (
        f"makes a ProcessPoolExecutor by name; {PROCESSES}"
    ),
    "ProcessPoolShutdownTest.test_del_shutdown": (
        f"makes a ProcessPoolExecutor by name; {INTERNALS}"
    ),
    "ProcessPoolShutdownTest.test_shutdown_no_wait": (
        f"makes a ProcessPoolExecutor by name; {INTERNALS}"
    ),
    "ExecutorDeadlockTest.test_shutdown_deadlock_pickle": INTERNALS,
}
