"""Events that the scheduler refuses, because a peer has violated the protocol."""

from typing import NoReturn

from concurrent_nb.errors import ProtocolError
from concurrent_nb.scheduling.events import Event


class EventRefused(ProtocolError):
    """A peer did what it may not do. The event has changed nothing that another peer could see; end its session.

    `position` is the event's index in its call of `Scheduler.handle`. Events before it were handled, and the next call
    returns their instructions; events after it were ignored.
    """

    def __init__(self, event: Event, message: str) -> None:
        super().__init__(message)
        self.event = event
        self.position = 0


def refuse(event: Event, message: str) -> NoReturn:
    """Raise EventRefused."""
    raise EventRefused(event, message)
