"""The DNA curvature sample of the thesis, in three forms, two of which compute what the thesis meant to.

dna-curvature    three measures of the bending of a sequence, in chunks that overlap: every task is independent
dna-coordinates  the atoms of the helix: a parallel scan, as a task system of two phases
dna-naive        the work divided as in the thesis, into tasks that become larger and larger: a stress test

`wedge_models` has the tables of the literature, `helix` the geometry; the rest sends it to a cluster and writes files.
"""
