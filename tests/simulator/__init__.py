"""Whole clusters in virtual time, with the real cores of all nodes: `python -m tests.simulator.simulation SEED`."""
