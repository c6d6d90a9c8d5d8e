"""Warnings that a peer can cause as often as he likes: one line of a kind in a while, with how many were left out."""

import logging
import time
from typing import Final

#: between two lines of one kind, in seconds
EVERY_S: Final = 10.0
#: kinds that are told apart; more of them are one
KINDS_MAX: Final = 100


class SparseLog:
    """Logs to `log`, seldom."""

    def __init__(self, log: logging.Logger, every_s: float = EVERY_S) -> None:
        self._log = log
        self._every_s = every_s
        self._kinds: dict[str, tuple[float, int]] = {}  # when a kind may be logged again, and how many were not

    def warning(self, kind: str, text: str, *args: object) -> None:
        """Log a warning, unless one of its kind was logged a moment ago."""
        now = time.monotonic()
        if kind not in self._kinds and len(self._kinds) >= KINDS_MAX:
            kind = "other"
        again_at, left_out = self._kinds.get(kind, (now, 0))
        if now < again_at:
            self._kinds[kind] = (again_at, left_out + 1)
            return
        self._kinds[kind] = (now + self._every_s, 0)
        more = f" (and {left_out} like this since the last one)" if left_out else ""
        self._log.warning(text + "%s", *args, more)
