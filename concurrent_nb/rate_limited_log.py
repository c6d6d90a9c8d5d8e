"""Rate-limited log lines about peers, so that a faulty peer cannot fill the disk. Pure except for the logging."""

import logging
from collections import OrderedDict
from dataclasses import dataclass
from typing import Final

#: lines about one subject within WINDOW_S seconds; then one line with the number of those left out
LINES: Final = 5
WINDOW_S: Final = 60.0
#: lines about all subjects together
LINES_IN_ALL: Final = 60
#: subjects that are remembered
_SUBJECTS: Final = 1000


@dataclass(slots=True)
class _Window:
    began: float
    lines: int = 0
    left_out: int = 0


class RateLimitedLog:
    """Writes at most `lines` lines about each subject in WINDOW_S seconds, and LINES_IN_ALL about all of them."""

    def __init__(self, log: logging.Logger, lines: int = LINES) -> None:
        self._log = log
        self._lines = lines
        self._subjects: OrderedDict[object, _Window] = OrderedDict()
        self._all = _Window(-WINDOW_S)

    def info(self, about: object, now: float, text: str, *args: object) -> None:
        """Write a line about a subject, unless the limit is reached."""
        self._write(logging.INFO, about, now, text, args, None)

    def warning(self, about: object, now: float, text: str, *args: object, error: BaseException | None = None) -> None:
        """Write a warning about a subject, unless the limit is reached; with `error`, an error with its traceback."""
        self._write(logging.WARNING if error is None else logging.ERROR, about, now, text, args, error)

    def _write(
        self, level: int, about: object, now: float, text: str, args: tuple[object, ...], error: BaseException | None
    ) -> None:
        window = self._subjects.get(about)
        if window is None or now - window.began >= WINDOW_S:
            if window is not None and window.left_out:
                self._log.warning("%d more lines like the following were left out", window.left_out)
            window = self._subjects[about] = _Window(now)
            self._subjects.move_to_end(about)
            if len(self._subjects) > _SUBJECTS:
                self._subjects.popitem(last=False)
        if now - self._all.began >= WINDOW_S:
            if self._all.left_out:
                self._log.warning("%d more lines about other peers were left out", self._all.left_out)
            self._all = _Window(now)
        for each, most in ((window, self._lines), (self._all, LINES_IN_ALL)):
            if each.lines >= most:
                each.left_out += 1
                return
        window.lines += 1
        self._all.lines += 1
        self._log.log(level, text, *args, exc_info=error)
