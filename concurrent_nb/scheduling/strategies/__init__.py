"""Who gets the next tasks. One file for each strategy, which knows the slave's record and no more.

Each says what it is good for; `benchmarks/strategies.py` shows it. A job's own strategy that pushes far ahead is held
to the cluster's as long as other owners have tasks, and what it has pushed makes room for them.
"""
