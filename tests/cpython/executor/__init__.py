"""CPython's own tests of process pools, run against Deadpool: ``python -m tests.cpython.executor``.

Nothing of CPython is copied: the tests come from the running interpreter's ``test`` package.
``left_out.py`` lists those that are not run, each with its reason.
"""
