"""Nodes: where mechanisms meet. Each has a core (pure: frames in, frames out) and a thin loop around it.

Layer 5. `master_core`, `slave_core` and `ledger` decide; `master`, `slave` and `application` own sockets and threads.
"""
