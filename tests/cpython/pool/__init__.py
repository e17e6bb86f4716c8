"""CPython's own tests of ``multiprocessing.Pool``, run against ``deadpool.pool.Pool``.

``python -m tests.cpython.pool`` runs the three classes about it under each start method. Nothing of
CPython is copied: the tests come from the running interpreter's ``test`` package. None is left out.
"""
