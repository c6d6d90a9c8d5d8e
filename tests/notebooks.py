"""A notebook in a real kernel, without a front end: runs cells, and collects what they show."""

import os
import queue
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from jupyter_client.blocking.client import BlockingKernelClient
from jupyter_client.manager import KernelManager
from jupyter_client.provisioning.local_provisioner import LocalProvisioner

ROOT = Path(__file__).parents[1]
#: a cell that does not answer within this time never will
PATIENCE_S = 60.0


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


class Notebook:
    """A kernel with the extension loaded, and the cells that are run in it."""

    def __init__(self, folder: Path, env: Mapping[str, str] | None = None) -> None:
        self.manager = KernelManager(kernel_name="python3", transport_encryption="auto")
        self.manager.start_kernel(cwd=str(folder), env={**os.environ, "PYTHONPATH": str(ROOT), **(env or {})})
        client = self.manager.client()
        assert isinstance(client, BlockingKernelClient)
        self.client = client
        self.client.start_channels()
        self.client.wait_for_ready(timeout=PATIENCE_S)
        assert self.run("%load_ext concurrent_nb").error is None

    def close(self) -> None:
        self.client.stop_channels()
        self.manager.shutdown_kernel()
        self.manager.cleanup_resources()
        self.manager.context.destroy(linger=0)

    def pid(self) -> int:
        assert isinstance(self.manager.provisioner, LocalProvisioner)
        return int(self.manager.provisioner.pid or 0)

    def start(self, source: str) -> str:
        return str(self.client.execute(source))

    def run(self, source: str) -> Answer:
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

    def wait_for(self, cell: str, text: str) -> None:
        """Wait until a running cell has shown `text`."""
        seen = ""
        while text not in seen:
            content = self._next(cell)["content"]
            seen += content.get("text", "") + content.get("data", {}).get("text/plain", "")

    def wait_for_text(self, lines: set[str], seen: str) -> None:
        """Wait until these lines have been printed, by whatever cell; `seen` has been printed already."""
        while not lines <= set(seen.split("\n")):
            seen += self.client.get_iopub_msg(timeout=PATIENCE_S)["content"].get("text", "")

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

    def interrupt(self) -> float:
        """Press the stop button; return when."""
        self.manager.interrupt_kernel()
        return time.monotonic()
