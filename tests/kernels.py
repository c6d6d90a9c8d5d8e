"""Stock Jupyter clients, for tests of kernels."""

import contextlib
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from jupyter_client.blocking.client import BlockingKernelClient

from tests.work import PATIENCE_S


@dataclass
class Answer:
    """What a cell has shown."""

    text: str = ""  #: standard output and error
    value: str | None = None  #: Out
    error: str | None = None  #: name of the exception's class
    message: str = ""
    events: list[str] = field(default_factory=list)


class Client:
    """A client that knows a kernel's connection file and nothing else."""

    def __init__(self, path: Path) -> None:
        self.client = BlockingKernelClient(connection_file=str(path))
        self.client.load_connection_file()
        self.client.start_channels()
        self.client.wait_for_ready(timeout=PATIENCE_S)

    def start(self, source: str) -> str:
        """Send a cell, and do not wait."""
        return str(self.client.execute(source))

    def run(self, source: str) -> Answer:
        """Run a cell to its end."""
        return self.finish(self.start(source))

    def finish(self, cell: str) -> Answer:
        """Collect what a cell shows until it has ended."""
        answer = Answer()
        deadline = time.monotonic() + PATIENCE_S
        while True:
            assert time.monotonic() < deadline, f"the cell does not end, and has shown {answer}"
            message = self.client.get_iopub_msg(timeout=PATIENCE_S)
            if message["parent_header"].get("msg_id") != cell:
                continue
            kind, content = message["msg_type"], message["content"]
            if kind == "status" and content["execution_state"] == "idle":
                return answer
            if kind == "stream":
                answer.text += content["text"]
            elif kind == "execute_result":
                answer.value = content["data"]["text/plain"]
            elif kind == "error":
                answer.error, answer.message = content["ename"], content["evalue"]

    def ask(self, kind: str, content: dict[str, Any]) -> dict[str, Any]:
        """Ask something on the control channel; give the content of the reply."""
        message = self.client.session.msg(kind, content)
        self.client.control_channel.send(message)
        while True:
            reply = self.client.get_control_msg(timeout=PATIENCE_S)
            if reply["parent_header"].get("msg_id") == message["header"]["msg_id"]:
                return dict(reply["content"])

    def close(self) -> None:
        """Hang up."""
        self.client.stop_channels()
        self.client.context.destroy(linger=0)


@contextlib.contextmanager
def attached(path: Path) -> Iterator[Client]:
    """Attach to a kernel by its connection file."""
    client = Client(path)
    try:
        yield client
    finally:
        client.close()
