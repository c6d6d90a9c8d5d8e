"""Requests to slaves for Jupyter kernels, their deadlines and results. Pure, a part of `nodes.master.core`."""

from ipaddress import ip_address
from typing import Final

from concurrent_nb.errors import KernelUnavailable, ProtocolError
from concurrent_nb.ids import SessionId
from concurrent_nb.nodes.common.kernel_access import OPEN_WITHIN_S
from concurrent_nb.nodes.master.slave_requests import PendingRequest, SlaveRequests
from concurrent_nb.transport.addresses import is_loopback
from concurrent_nb.wire import messages as m

#: z85 characters of a CURVE key
_KEY_CHARS: Final = 40


class KernelRequests(SlaveRequests[m.KernelAccess]):
    """Requests for kernels, each settled once: with the access to the kernel, or with an error for its caller."""

    def __init__(self) -> None:
        super().__init__(OPEN_WITHIN_S)

    def ask(self, slave: SessionId, name: str, now: float) -> m.OpenKernel:
        """Add a request, and return the message for the slave."""
        return m.OpenKernel(self._add(slave, name, now))

    def answered(self, slave: SessionId, message: m.KernelOpened) -> None:
        """Handle a slave's answer. Raises ProtocolError for a malformed one, and for one without a request."""
        pending = self._asked(slave, message.request)
        if message.access is not None:
            _check(message.access)
        why = f"slave {pending.name!r} has opened no kernel: {message.error[:2000]}"
        self._settle(message.request, message.access or KernelUnavailable(why))

    def _error_lost(self, pending: PendingRequest, why: str) -> KernelUnavailable:
        return KernelUnavailable(f"slave {pending.name!r} was lost before it opened its kernel: {why}")

    def _error_late(self, pending: PendingRequest) -> KernelUnavailable:
        return KernelUnavailable(
            f"slave {pending.name!r} has not opened its kernel within {OPEN_WITHIN_S:.0f} s: ask again"
        )


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
