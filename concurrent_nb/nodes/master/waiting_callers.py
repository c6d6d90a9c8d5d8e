"""The callers of the control channel who wait for answers of slaves."""

import asyncio
from typing import Generic, TypeVar

from concurrent_nb.errors import ConcurrentError
from concurrent_nb.nodes.master.slave_requests import SlaveRequests

A = TypeVar("A")


class WaitingCallers(Generic[A]):
    """Gives each caller the answer to its request. Used by the compute thread, except for the futures themselves.

    Args:
        requests: to slaves.
    """

    def __init__(self, requests: SlaveRequests[A]) -> None:
        self._requests = requests
        self._callers: dict[int, asyncio.Future[A]] = {}  # by request

    def add(self, request: int, caller: "asyncio.Future[A]") -> None:
        """Let a caller wait for the answer to this request."""
        self._callers[request] = caller

    def settle(self) -> None:
        """Give the answers that have come to their callers."""
        if self._requests.settled:
            for request, answer in self._requests.take_settled():
                caller = self._callers.pop(request)
                caller.get_loop().call_soon_threadsafe(_settle, caller, answer)


def _settle(caller: "asyncio.Future[A]", answer: A | ConcurrentError) -> None:
    if caller.done():  # it has hung up
        return
    if isinstance(answer, ConcurrentError):
        caller.set_exception(answer)
    else:
        caller.set_result(answer)
