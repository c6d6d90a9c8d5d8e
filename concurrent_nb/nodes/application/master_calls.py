"""Calls of an application, and of its jobs, to methods of the control channel."""

from pathlib import Path
from typing import Any

from concurrent_nb.nodes.application.client_thread import ClientThread
from concurrent_nb.nodes.common.registration import Membership
from concurrent_nb.nodes.common.trace_file import TraceSummary, write_trace
from concurrent_nb.transport.control_client import ControlClient


class MasterCalls:
    """Calls methods as the present session of an application. For any thread."""

    def __init__(self, client_thread: ClientThread) -> None:
        self._client_thread = client_thread

    def __call__(self, method: str, **params: object) -> Any:
        """Call a method. Raises MasterUnreachable, and what the method raises."""
        return self._client_thread.member.ask(method, **params)

    def sample_stack(self, job: str, index: int) -> dict[str, Any]:
        """Ask what a task of a job, by its id in hexadecimal, is doing."""
        try:
            sample: dict[str, Any] = self("stack_sample", job=job, index=index)
            return sample
        finally:
            self._client_thread.member.control.close()  # the next call comes much later

    def write_trace(self, path: Path | str, job: str = "") -> TraceSummary:
        """Write the trace of a job, by its id in hexadecimal, or of all of this user."""
        try:
            return write_trace(path, lambda since: self("trace", job=job, since=since))
        finally:
            self._client_thread.member.control.close()  # the next call comes much later

    def separate(self, timeout_s: float) -> "SeparateCalls":
        """Return what makes the same calls over a connection of its own, so that a slow one delays no other thread."""
        return SeparateCalls(self._client_thread, timeout_s)


class SeparateCalls:
    """Calls methods as the present session of an application, over a connection of its own. For one thread.

    Args:
        timeout_s: seconds after which each call ends.
    """

    def __init__(self, client_thread: ClientThread, timeout_s: float) -> None:
        self._client_thread = client_thread
        self._timeout_s = timeout_s
        self._member: Membership | None = None
        self._control: ControlClient | None = None

    @property
    def has_left(self) -> bool:
        """Whether the application has left its cluster, or lost it: calls are in vain."""
        return self._client_thread.has_left

    def __call__(self, method: str, **params: object) -> Any:
        """Call a method. Raises MasterUnreachable, and what the method raises."""
        member = self._client_thread.member
        if self._control is None or member is not self._member:  # the master was lost, and found again
            self.close()
            self._member, self._control = member, member.control.separate(self._timeout_s)
        return self._control.call(method, **params, **member.credentials)

    def close(self) -> None:
        """Close the connection; a later call opens a new one."""
        if self._control is not None:
            self._control.close()
            self._control = None
