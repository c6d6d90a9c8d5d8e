"""A line on the terminal that tells how far something is: written over while it changes, gone in the end."""

import shutil
import sys
import time
from typing import Final

_ERASE: Final = "\r\x1b[2K"
#: seconds between two changes of the line
_PAUSE_S: Final = 0.1


class ProgressLine:
    """Shows the last of what it is told, at most ten times a second; nothing where the output is no terminal."""

    def __init__(self) -> None:
        self._is_terminal = sys.stdout.isatty()
        self._shown_s = 0.0

    def show(self, text: str) -> None:
        """Show a line of text, cut to what fits, in the place of what was there."""
        now = time.monotonic()
        if self._is_terminal and now - self._shown_s >= _PAUSE_S:
            self._shown_s = now
            self._write(_ERASE + text[: shutil.get_terminal_size().columns - 1])

    def clear(self) -> None:
        """Take the line away."""
        if self._is_terminal:
            self._write(_ERASE)

    def _write(self, text: str) -> None:
        sys.stdout.write(text)
        sys.stdout.flush()
