"""The tests: what is promised, said once more so that a machine can check it.

`unit/` mirrors the package and never sleeps. `contract/` holds every part of one kind to one suite. `integration/` runs
real processes. `leaks.py` is the check that no test leaves anything behind.
"""
