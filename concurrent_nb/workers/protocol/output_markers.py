"""Markers in the pipes of descriptors 1 and 2, by which a slave finds the task that has written what comes before."""

import struct
from typing import Final

TICKET: Final = struct.Struct("<Q")


def marker(nonce: bytes, ticket: int) -> bytes:
    """Return the marker that ends a task's output: so short that a write of it is never interleaved with another."""
    return nonce + TICKET.pack(ticket)
