"""The master of an engine's tasks: a process beside the user's, which ends with it."""

import contextlib
import json
import os
import secrets
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any, Final

from concurrent_nb.errors import ClusterStartFailed, ConcurrentError
from concurrent_nb.nodes.common.child_processes import end_children, write_line
from concurrent_nb.nodes.common.owner_wishes import Wish, WishAnswer, line_of
from concurrent_nb.nodes.common.wish_reader import WishReader
from concurrent_nb.transport import connection_file

#: a master that is not ready after this time has failed
MASTER_START_S: Final = 30.0
#: It has one slave, a thread of the user's process, which is silent while the user's code holds the GIL. That slave may
#: have many tasks, because its pool decides how many the engine has at a time.
_CONFIG: Final = {"MasterNode": {"strategy": "push_best", "suspect_after_s": 60.0, "lost_after_s": 3600.0}}
#: one that is alive this long after its pipe was closed gets SIGTERM, and then, as long again later, SIGKILL: a process
#: that the user's has forked, as ProcessPoolExecutor does, may hold its pipe open
MASTER_END_S: Final = 1.0


class MasterProcess:
    """A master that this process has started.

    Args:
        engine: its name, for the name of the cluster and for messages.

    Raises ClusterStartFailed if it does not start; the message has the end of its log.
    """

    def __init__(self, engine: str) -> None:
        self.name = f"{engine}-{os.getpid()}-{secrets.token_hex(4)}"
        self._engine = engine
        self._log: Any = tempfile.TemporaryFile("w+")  # noqa: SIM115  (it is closed with this object)
        self._process: subprocess.Popen[str] | None = None
        self._wishes: WishReader | None = None
        try:
            self.path = self._start()
        except BaseException:
            self.close()
            raise

    def _start(self) -> Path:
        ours, masters = os.pipe()
        self._wishes = WishReader(ours)
        try:
            self._process = subprocess.Popen(
                [sys.executable, "-P", "-m", "concurrent_nb.nodes", "master", "text", json.dumps(_CONFIG), self.name],
                stdin=subprocess.PIPE,
                stdout=masters,
                stderr=self._log,
                text=True,
                start_new_session=True,  # an interrupt of the notebook must not reach it
            )
        finally:
            os.close(masters)
        line = self._wishes.first_line(MASTER_START_S)
        if not line:
            self._log.seek(0)
            raise ClusterStartFailed(
                f"the master of engine {self._engine!r} did not start:\n{self._log.read()[-4000:]}"
            )
        self._wishes.serve(self._refuse, f"concurrent_nb {self.name} wishes")
        return Path(line)

    def _refuse(self, wish: Wish) -> None:
        """Answer what an admin wants of this process: workers are the engine's."""
        answer = WishAnswer(wish.number, 0, f"the workers belong to the engine {self._engine!r}: scale it itself")
        assert self._process is not None
        write_line(self._process, line_of(answer).decode().rstrip("\n"))

    def close(self) -> None:
        """End the master, and wait until it has ended. Does nothing the second time."""
        process, self._process = self._process, None
        wishes, self._wishes = self._wishes, None
        if process is not None:
            end_children([process], MASTER_END_S, 2 * MASTER_END_S)
        if wishes is not None:
            wishes.close()
            if process is not None and process.returncode:
                with contextlib.suppress(ConcurrentError):  # a killed master has left its file
                    connection_file.remove(self.name)
        self._log.close()
