"""Strategies, which choose the slave for the next tasks. One file for each; they use the records of slaves only.

The docstring of each describes when it is good; `benchmarks/strategies.py` measures it. A job's own prefetching
strategy is replaced by the cluster's while other owners have tasks, and tasks that it has prefetched are recalled to
make room for them.
"""
