"""Requests to slaves for Jupyter kernels, their deadlines and results. Pure, a part of `nodes.master.core`."""

from dataclasses import dataclass
from ipaddress import ip_address
from math import inf
from typing import Final

from concurrent_nb.errors import ConcurrentError, KernelUnavailable, ProtocolError
from concurrent_nb.ids import SessionId
from concurrent_nb.nodes.common.kernel_access import OPEN_WITHIN_S
from concurrent_nb.transport.addresses import is_loopback
from concurrent_nb.wire import messages as m

#: z85 characters of a CURVE key
_KEY_CHARS: Final = 40

Answer = m.KernelAccess | ConcurrentError


@dataclass(eq=False, slots=True)
class _PendingRequest:
    slave: SessionId
    name: str
    until: float  #: deadline; inf after a time-out, so that a late answer is no protocol error


class KernelRequests:
    """Requests for kernels, each settled once: with the access to the kernel, or with an error for its caller."""

    def __init__(self) -> None:
        self._last = 0
        self._pending: dict[int, _PendingRequest] = {}
        self.settled: list[tuple[int, Answer]] = []  #: results since the last `take_settled`

    def ask(self, slave: SessionId, name: str, now: float) -> m.OpenKernel:
        """Add a request, and return the message for the slave."""
        self._last += 1
        self._pending[self._last] = _PendingRequest(slave, name, now + OPEN_WITHIN_S)
        return m.OpenKernel(self._last)

    def answered(self, slave: SessionId, message: m.KernelOpened) -> None:
        """Handle a slave's answer. Raises ProtocolError for a malformed one, and for one without a request."""
        pending = self._pending.get(message.request)
        if pending is None or pending.slave != slave:
            raise ProtocolError(f"an answer to request {message.request}, which this slave was not asked")
        if message.access is not None:
            _check(message.access)
        del self._pending[message.request]
        if pending.until == inf:
            return
        why = f"slave {pending.name!r} has opened no kernel: {message.error[:2000]}"
        self.settled.append((message.request, message.access or KernelUnavailable(why)))

    def lost(self, slave: SessionId, why: str) -> None:
        """Settle the requests to a lost slave."""
        for request in [request for request, pending in self._pending.items() if pending.slave == slave]:
            pending = self._pending.pop(request)
            if pending.until < inf:
                text = f"slave {pending.name!r} was lost before it opened its kernel: {why}"
                self.settled.append((request, KernelUnavailable(text)))

    def tick(self, now: float) -> None:
        """Settle requests that have timed out."""
        if now < self.next_deadline():
            return
        for request, pending in self._pending.items():
            if pending.until <= now:
                pending.until = inf
                text = f"slave {pending.name!r} has not opened its kernel within {OPEN_WITHIN_S:.0f} s: ask again"
                self.settled.append((request, KernelUnavailable(text)))

    def next_deadline(self) -> float:
        """Return when `tick` must be called at the latest."""
        return min((pending.until for pending in self._pending.values()), default=inf) if self._pending else inf

    def take_settled(self) -> list[tuple[int, Answer]]:
        """Return the requests that were settled since the last call, with their answers."""
        settled, self.settled = self.settled, []
        return settled


def _check(access: m.KernelAccess) -> None:
    """Raise ProtocolError for a malformed address or key, and for an unencrypted kernel beyond loopback."""
    try:
        ip_address(access.ip)
    except ValueError:
        raise ProtocolError(f"a kernel listens on {access.ip[:80]!r}, which is no IP address") from None
    sizes = len(access.curve_publickey), len(access.curve_secretkey)
    if sizes != (_KEY_CHARS, _KEY_CHARS) and not (is_loopback(access.ip) and sizes == (0, 0)):
        raise ProtocolError("a kernel beyond loopback needs a pair of CURVE keys")
    if not access.key:
        raise ProtocolError("a kernel without a key that signs its messages")
