"""A seeded storm over a real pool: random work, random faults, and a model of what must hold.

``python -m tests.chaos --seed 7 --tasks 400 --method forkserver`` makes one run; the same seed makes the
same decisions. ``--minutes`` makes many runs and adds up what was done.

* :mod:`.work` is what workers run, and what each kind of task must end with;
* :mod:`.actors` submits, cancels, resizes and clears;
* :mod:`.faults` kills, stops, starves;
* :mod:`.model` keeps what was asked for and says what is wrong with what came;
* :mod:`.run` puts them together; :mod:`.soak` repeats it.
"""
