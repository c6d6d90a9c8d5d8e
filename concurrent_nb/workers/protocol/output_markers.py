"""Markers in the pipes of descriptors 1 and 2, by which a slave knows which task wrote what came before."""

import struct
from typing import Final

TICKET: Final = struct.Struct("<Q")


def marker(nonce: bytes, ticket: int) -> bytes:
    """Make the marker that ends a task's output. Short enough that no other writer gets in between."""
    return nonce + TICKET.pack(ticket)
