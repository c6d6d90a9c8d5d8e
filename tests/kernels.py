"""Stock Jupyter clients, for tests of kernels: they run cells, and collect what these show."""

import contextlib
import queue
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from jupyter_client.blocking.client import BlockingKernelClient

from tests.work import PATIENCE_S


@dataclass
class Answer:
    """What a cell has shown."""

    text: str = ""  #: standard output and error
    shown: list[dict[str, str]] = field(default_factory=list)  #: what tasks displayed, by MIME type
    displays: list[str] = field(default_factory=list)  #: displays, the updated ones as they are now
    updates: int = 0
    value: str | None = None  #: Out
    error: str | None = None  #: name of the exception's class
    message: str = ""
    traceback: str = ""
    ended_at: float = 0.0

    def summary(self) -> str:
        """Give the line that stays, in the place of what was shown before, or alone where it was over too soon."""
        return self.displays[-1] if self.displays else self.shown[-1]["text/plain"]


class Client:
    """A client of one kernel."""

    def __init__(self, client: BlockingKernelClient) -> None:
        self.client = client
        self.client.start_channels()
        deadline = time.monotonic() + PATIENCE_S
        try:
            while True:
                try:
                    self.client.wait_for_ready(timeout=PATIENCE_S)
                except RuntimeError:
                    # On a machine that is busy a heartbeat comes late, and a kernel that starts counts as dead.
                    if time.monotonic() > deadline:
                        raise
                else:
                    break
        except BaseException:
            self.close()  # its channels would open descriptors for ever
            raise

    def close(self) -> None:
        """Hang up."""
        self.client.stop_channels()
        self.client.context.destroy(linger=0)

    def start(self, source: str) -> str:
        """Send a cell, and do not wait."""
        return str(self.client.execute(source))

    def run(self, source: str) -> Answer:
        """Run a cell to its end."""
        return self.finish(self.start(source))

    def finish(self, cell: str) -> Answer:
        """Collect what a cell shows until it has ended."""
        answer = Answer()
        places: dict[str, int] = {}
        deadline = time.monotonic() + PATIENCE_S
        while True:
            assert time.monotonic() < deadline, f"the cell does not end, and has shown {answer}"
            message = self._next(cell)
            kind, content = message["msg_type"], message["content"]
            if kind == "status" and content["execution_state"] == "idle":
                answer.ended_at = time.monotonic()
                return answer
            self._note(answer, places, kind, content)

    def ask(self, kind: str, content: dict[str, Any]) -> dict[str, Any]:
        """Ask something on the control channel; give the content of the reply."""
        message = self.client.session.msg(kind, content)
        self.client.control_channel.send(message)
        while True:
            reply = self.client.get_control_msg(timeout=PATIENCE_S)
            if reply["parent_header"].get("msg_id") == message["header"]["msg_id"]:
                return dict(reply["content"])

    def _next(self, cell: str) -> dict[str, Any]:
        while True:
            message = self._receive()
            if message["parent_header"].get("msg_id") == cell:
                return message

    def _receive(self) -> dict[str, Any]:
        try:
            message: dict[str, Any] = self.client.get_iopub_msg(timeout=PATIENCE_S)
        except queue.Empty:
            pytest.fail("the kernel sends nothing any more")
        return message

    def _note(self, answer: Answer, places: dict[str, int], kind: str, content: dict[str, Any]) -> None:
        if kind == "stream":
            answer.text += content["text"]
        elif kind == "display_data":
            if "display_id" not in content["transient"]:
                answer.shown.append(content["data"])
                return
            places[content["transient"]["display_id"]] = len(answer.displays)
            answer.displays.append(content["data"]["text/plain"])
        elif kind == "update_display_data":
            answer.updates += 1
            # A test that has waited for something may have read its beginning.
            place = places.setdefault(content["transient"]["display_id"], len(answer.displays))
            answer.displays[place : place + 1] = [content["data"]["text/plain"]]
        elif kind == "execute_result":
            answer.value = content["data"]["text/plain"]
        elif kind == "error":
            answer.error, answer.message = content["ename"], content["evalue"]
            answer.traceback = "\n".join(content["traceback"])


@contextlib.contextmanager
def attached(path: Path) -> Iterator[Client]:
    """Attach to a kernel by its connection file."""
    kernel = BlockingKernelClient(connection_file=str(path))
    kernel.load_connection_file()
    client = Client(kernel)
    try:
        yield client
    finally:
        client.close()
