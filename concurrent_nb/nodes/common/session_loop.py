"""What the loops of a slave and of an application share: the link to the master, and the verdict on their session.

The loops are pure: their callers wait for events, and act on each verdict.
"""

from collections.abc import Iterable, Sequence
from enum import Enum, auto
from typing import Protocol

from concurrent_nb.wire.codec import Buffer


class Verdict(Enum):
    """What a node is to do after a turn."""

    STAY = auto()  #: wait for the next event, and take another turn
    ASK = auto()  #: ask the master over the control channel whether it still has the session
    REJOIN = auto()  #: the session is over: register again
    LEAVE = auto()  #: unregister, and end
    END = auto()  #: end without unregistering: the cluster is gone


class MasterLink(Protocol):
    """A node's end of the compute channel; `transport.compute.ComputeClient` is the real one."""

    def receive(self) -> Iterable[Sequence[Buffer]]:
        """Yield the frames of each envelope that has arrived."""

    def send(self, frames: Sequence[Buffer]) -> bool:
        """Send an envelope; False if it does not fit into the queue now."""
