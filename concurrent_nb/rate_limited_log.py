"""Rate-limited log lines about peers, so that a faulty peer cannot fill the disk. Pure except for the logging."""

import logging
from collections import OrderedDict
from collections.abc import Mapping
from typing import Final

#: lines about one subject within WINDOW_S seconds; then one line with the number of those left out
LINES: Final = 5
WINDOW_S: Final = 60.0
#: lines about all subjects together
LINES_IN_ALL: Final = 60
#: subjects that are remembered
_SUBJECTS: Final = 1000


class LineLimit:
    """Lets a number of lines pass within a number of seconds, and counts the others.

    >>> limit = LineLimit(1, within_s=60.0)
    >>> limit.admits(0.0), limit.admits(1.0), limit.admits(2.0), limit.admits(61.0), limit.take_left_out()
    (True, False, False, True, 2)
    """

    def __init__(self, lines: int, within_s: float = WINDOW_S) -> None:
        self._lines = lines
        self._within_s = within_s
        self._since = -within_s
        self._count = 0
        self._left_out = 0

    def admits(self, now: float) -> bool:
        """Count a line; return whether it may be logged now."""
        if now - self._since >= self._within_s:
            self._since, self._count = now, 0
        self._count += 1
        if self._count > self._lines:
            self._left_out += 1
            return False
        return True

    def take_left_out(self) -> int:
        """Return how many lines were left out since the last call."""
        left_out, self._left_out = self._left_out, 0
        return left_out


class RateLimitedLog:
    """Writes at most `lines` lines about each subject in WINDOW_S seconds, and LINES_IN_ALL about all of them."""

    def __init__(self, log: logging.Logger, lines: int = LINES) -> None:
        self._log = log
        self._lines = lines
        self._subjects: OrderedDict[object, LineLimit] = OrderedDict()
        self._all = LineLimit(LINES_IN_ALL)

    def info(
        self, about: object, now: float, text: str, *args: object, ids: Mapping[str, object] | None = None
    ) -> None:
        """Write a line about a subject, unless the limit is reached. `ids` are members of the record."""
        self._write(logging.INFO, about, now, text, args, None, ids)

    def warning(
        self,
        about: object,
        now: float,
        text: str,
        *args: object,
        error: BaseException | None = None,
        ids: Mapping[str, object] | None = None,
    ) -> None:
        """Write a warning about a subject, unless the limit is reached; with `error`, an error with its traceback."""
        self._write(logging.WARNING if error is None else logging.ERROR, about, now, text, args, error, ids)

    def _write(
        self,
        level: int,
        about: object,
        now: float,
        text: str,
        args: tuple[object, ...],
        error: BaseException | None,
        ids: Mapping[str, object] | None,
    ) -> None:
        limit = self._subjects.get(about)
        if limit is None:
            limit = self._subjects[about] = LineLimit(self._lines)
            if len(self._subjects) > _SUBJECTS:
                self._subjects.popitem(last=False)
        self._subjects.move_to_end(about)
        for each, kind in ((limit, "like the following"), (self._all, "about other peers")):
            if not each.admits(now):
                return
            if left_out := each.take_left_out():
                self._log.warning("%d more lines %s were left out", left_out, kind)
        self._log.log(level, text, *args, exc_info=error, extra=ids)
