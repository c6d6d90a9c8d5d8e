"""A progress line on the terminal, which is overwritten while it changes and erased at the end."""

import shutil
import sys
import time
from typing import Final

_ERASE: Final = "\r\x1b[2K"
#: minimum time in seconds between two updates
_PAUSE_S: Final = 0.1


class ProgressLine:
    """Shows the latest text, at most ten times a second; nothing if the output is not a terminal."""

    def __init__(self) -> None:
        self._is_terminal = sys.stdout.isatty()
        self._shown_s = 0.0

    def show(self, text: str) -> None:
        """Replace the line by a text, cut to the width of the terminal."""
        now = time.monotonic()
        if self._is_terminal and now - self._shown_s >= _PAUSE_S:
            self._shown_s = now
            self._write(_ERASE + text[: shutil.get_terminal_size().columns - 1])

    def clear(self) -> None:
        """Erase the line."""
        if self._is_terminal:
            self._write(_ERASE)

    def _write(self, text: str) -> None:
        sys.stdout.write(text)
        sys.stdout.flush()
