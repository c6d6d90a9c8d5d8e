"""Questions to slaves that callers of the control channel wait for: their deadlines and answers. Pure, a part of
`nodes.master.core`.
"""

from dataclasses import dataclass
from math import inf
from typing import Generic, TypeVar

from concurrent_nb.errors import ConcurrentError, ProtocolError
from concurrent_nb.ids import SessionId

A = TypeVar("A")


@dataclass(eq=False, slots=True)
class PendingRequest:
    """A question without an answer."""

    slave: SessionId
    name: str  #: of the slave
    until: float  #: deadline; inf after a time-out, so that a late answer is no protocol error
    about: str = ""  #: what is asked about, for messages


class SlaveRequests(Generic[A]):
    """Requests to slaves, each settled once: with the slave's answer, or with an error for its caller.

    Args:
        within_s: seconds that a slave has for its answer.
    """

    def __init__(self, within_s: float) -> None:
        self._within_s = within_s
        self._last = 0
        self._pending: dict[int, PendingRequest] = {}
        self.settled: list[tuple[int, A | ConcurrentError]] = []  #: results since the last `take_settled`

    def _add(self, slave: SessionId, name: str, now: float, about: str = "") -> int:
        """Add a request, and return its number."""
        self._last += 1
        self._pending[self._last] = PendingRequest(slave, name, now + self._within_s, about)
        return self._last

    def _asked(self, slave: SessionId, request: int) -> PendingRequest:
        """Return the request that a slave answers. Raises ProtocolError if it was not asked."""
        pending = self._pending.get(request)
        if pending is None or pending.slave != slave:
            raise ProtocolError(f"an answer to request {request}, which this slave was not asked")
        return pending

    def _settle(self, request: int, answer: A | ConcurrentError) -> None:
        """Settle a request with its answer, unless it comes too late."""
        if self._pending.pop(request).until < inf:
            self.settled.append((request, answer))

    def lost(self, slave: SessionId, why: str) -> None:
        """Settle the requests to a lost slave."""
        for request in [request for request, pending in self._pending.items() if pending.slave == slave]:
            self._settle(request, self._error_lost(self._pending[request], why))

    def tick(self, now: float) -> None:
        """Settle requests that have timed out."""
        if now < self.next_deadline():
            return
        for request, pending in self._pending.items():
            if pending.until <= now:
                pending.until = inf
                self.settled.append((request, self._error_late(pending)))

    def next_deadline(self) -> float:
        """Return when `tick` must be called at the latest."""
        return min((pending.until for pending in self._pending.values()), default=inf) if self._pending else inf

    def take_settled(self) -> "list[tuple[int, A | ConcurrentError]]":
        """Return the requests that were settled since the last call, with their answers."""
        settled, self.settled = self.settled, []
        return settled

    def _error_lost(self, pending: PendingRequest, why: str) -> ConcurrentError:
        """Return the error for a request whose slave was lost."""
        raise NotImplementedError

    def _error_late(self, pending: PendingRequest) -> ConcurrentError:
        """Return the error for a request that was not answered in time."""
        raise NotImplementedError
