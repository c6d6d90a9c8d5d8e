"""What the scheduler does not accept from a peer."""

from typing import NoReturn

from concurrent_nb.errors import ProtocolError
from concurrent_nb.scheduling.events import Event


class EventRefused(ProtocolError):
    """A peer did what it may not do. The event has changed nothing that another peer could see; drop the peer.

    `position` is the event's place in its call of `Scheduler.handle`. Those before it are done, and what was decided
    for them comes out of the next call; those after it were not looked at.
    """

    def __init__(self, event: Event, message: str) -> None:
        super().__init__(message)
        self.event = event
        self.position = 0


def refuse(event: Event, message: str) -> NoReturn:
    """Raise EventRefused."""
    raise EventRefused(event, message)
