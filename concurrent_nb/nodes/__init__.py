"""Nodes: where mechanisms meet. Each has a core (pure: frames in, frames out) and a thin loop around it.

The layer "nodes", with a folder per process: `application`, `master`, `slave`, `worker`, and `common` for what several
use. They import each other nowhere. `cluster` starts a master and slaves on this machine; `__main__` is what it starts.
"""
