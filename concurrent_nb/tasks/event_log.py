"""The last events of the cluster that are shown to its users. Pure.

Slaves that come and go, workers that die, tasks that are quarantined, jobs whose first task fails. The scheduler and
the master's core add them, the live feed reads them. All of them are rare.
"""

from collections import deque
from typing import Final

from msgspec import Struct

#: most events that are kept
EVENTS_KEPT: Final = 100
#: most characters of a text
TEXT_MAX: Final = 500


class ClusterEvent(Struct, frozen=True):
    """Something that has happened."""

    number: int  #: from 0, in the order in which they happened
    at_s: float  #: time of the master's clock
    kind: str  #: "slave joined", "slave left", "slave lost", "worker died", "task quarantined" or "job failed"
    text: str  #: for people; it may contain anything that a user's code has raised
    slave: str = ""  #: name of the slave, if it concerns one
    job: bytes = b""  #: id of the job, if it concerns one
    owner: str = ""  #: public key to which the job belongs; "" if it concerns everyone


class EventLog:
    """The last events.

    >>> events = EventLog()
    >>> events.add(12.5, "slave joined", "slave east has joined", slave="east")
    >>> [event.kind for event in events.kept]
    ['slave joined']
    """

    def __init__(self) -> None:
        self.kept: deque[ClusterEvent] = deque(maxlen=EVENTS_KEPT)
        self.count = 0  #: of all events so far

    def add(self, now: float, kind: str, text: str, *, slave: str = "", job: bytes = b"", owner: str = "") -> None:
        """Add an event that happens now. A long text is cut."""
        text = text if len(text) <= TEXT_MAX else f"{text[: TEXT_MAX - 3]}..."
        self.kept.append(ClusterEvent(self.count, now, kind, text, slave, job, owner))
        self.count += 1
