"""Calls of an application, and of its jobs, to methods of the control channel."""

from pathlib import Path
from typing import Any

from concurrent_nb.nodes.application.client_thread import ClientThread
from concurrent_nb.nodes.common.trace_file import TraceSummary, write_trace


class MasterCalls:
    """Calls methods as the present session of an application. For any thread."""

    def __init__(self, client_thread: ClientThread) -> None:
        self._client_thread = client_thread

    def __call__(self, method: str, **params: object) -> Any:
        """Call a method. Raises MasterUnreachable, and what the method raises."""
        return self._client_thread.member.ask(method, **params)

    def write_trace(self, path: Path | str, job: str = "") -> TraceSummary:
        """Write the trace of a job, by its id in hexadecimal, or of all of this user."""
        try:
            return write_trace(path, lambda since: self("trace", job=job, since=since))
        finally:
            self._client_thread.member.control.close()  # the next call comes much later
