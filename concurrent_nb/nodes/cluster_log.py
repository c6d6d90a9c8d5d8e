"""The log of the nodes that a `Cluster` has started."""

import os
import re
import tempfile
from pathlib import Path
from typing import Any, Final

from concurrent_nb.errors import ConfigurationError

#: the beginning of a node's log record, or of the reason of another node's end
_RECORD: Final = re.compile(r"\n(?=\d{4}-\d\d-\d\d \d\d:\d\d:|the (?:master|slave) ends: )")


class ClusterLog:
    """A file to which the nodes of a cluster write.

    Args:
        path: the file, to which is appended; None: one without a name, which is deleted when it is closed.
    """

    def __init__(self, path: Path | str | None) -> None:
        self._path = path
        self.file: Any = None  #: None before `open`

    def open(self) -> None:
        """Open the file. Raises ConfigurationError if it cannot be written."""
        if self._path is None:
            self.file = tempfile.TemporaryFile("w+")  # noqa: SIM115  (closed with this object)
            return
        try:
            self.file = open(self._path, "a+", errors="replace")  # noqa: SIM115  (so is this)
        except OSError as error:
            raise ConfigurationError(f"log {self._path} cannot be written: {error.strerror or error}") from None

    def close(self) -> None:
        """Close the file, if it is open."""
        if self.file is not None:
            self.file.close()

    def tail(self, limit: int = 4000) -> str:
        """Return the last `limit` characters."""
        self.file.seek(0, os.SEEK_END)
        self.file.seek(max(0, self.file.tell() - limit))
        text = self.file.read()
        assert isinstance(text, str)
        return text.strip()

    def end_of(self, role: str) -> str:
        """Return how it ends, for an error: the reason that a node of this role has given, or else its tail."""
        tail = self.tail()
        _, begins, reason = tail.rpartition(f"the {role} ends: ")
        if begins:
            tail = begins + _RECORD.split(reason, 1)[0].strip()
        return f"its log ends:\n{tail}"
