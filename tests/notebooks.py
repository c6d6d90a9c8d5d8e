"""A notebook in a real kernel, without a front end."""

import os
import time
from collections.abc import Mapping
from pathlib import Path

from jupyter_client.blocking.client import BlockingKernelClient
from jupyter_client.manager import KernelManager
from jupyter_client.provisioning.local_provisioner import LocalProvisioner

from tests.kernels import Client
from tests.work import PATIENCE_S

ROOT = Path(__file__).parents[1]


class Notebook(Client):
    """A kernel with the extension loaded, and the cells that are run in it."""

    def __init__(self, folder: Path, env: Mapping[str, str] | None = None) -> None:
        self.manager = KernelManager(kernel_name="python3", transport_encryption="auto")
        self.manager.start_kernel(cwd=str(folder), env={**os.environ, "PYTHONPATH": str(ROOT), **(env or {})})
        client = self.manager.client()
        assert isinstance(client, BlockingKernelClient)
        super().__init__(client)
        assert self.run("%load_ext concurrent_nb").error is None

    def close(self) -> None:
        self.client.stop_channels()
        self.manager.shutdown_kernel()
        self.manager.cleanup_resources()
        self.manager.context.destroy(linger=0)

    def restart(self, *, now: bool = False) -> None:
        """Restart the kernel as front ends do, and load the extension again; `now`: kill it."""
        self.manager.restart_kernel(now=now)
        self.client.wait_for_ready(timeout=PATIENCE_S)
        assert self.run("%load_ext concurrent_nb").error is None

    def pid(self) -> int:
        assert isinstance(self.manager.provisioner, LocalProvisioner)
        return int(self.manager.provisioner.pid or 0)

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

    def interrupt(self) -> float:
        """Press the stop button; return when."""
        self.manager.interrupt_kernel()
        return time.monotonic()
