"""The progress of a world while it runs: a line, and what the user's `view` returns.

In a notebook both are displays that are updated; on a terminal the line is rewritten.
"""

import html
import sys
import time
from collections.abc import Callable, Mapping
from typing import Any, Final

from concurrent_nb.worlds.step_record import Step

#: seconds between two updates
UPDATE_S: Final = 0.2
#: seconds of a step after which the line shows what it waits for
LATE_S: Final = 2.0
#: between the parts of the line
_BETWEEN: Final = " · "


class WorldDisplay:
    """Shows the progress of a run.

    Args:
        steps: of the run.
        first: steps that were made before.
        view: what is shown besides the line.
        show: whether there is a line; None: in a notebook and on a terminal.
    """

    def __init__(
        self, steps: int, first: int, view: Callable[[Step, Mapping[str, Any]], Any] | None, show: bool | None
    ) -> None:
        self._steps = steps
        self._first = first
        self._view = view
        self._display = _notebook_display()
        self._shows = (self._display is not None or sys.stderr.isatty()) if show is None else show
        self._line: Any = None
        self._has_line = False  # something was written
        self._picture: Any = None
        self._began_s = time.monotonic()
        self._shown_s = 0.0
        self._late_s = 0.0  # for which the present step has been waited
        self._is_shown = False  # the last step
        self._last: tuple[Step, Callable[[], Mapping[str, Any]]] | None = None

    def add(self, step: Step, shared: Callable[[], Mapping[str, Any]]) -> None:
        """Take a step that was made."""
        self._last = step, shared
        self._is_shown = False
        self._late_s = 0.0
        now_s = time.monotonic()
        if now_s - self._shown_s >= UPDATE_S:
            self._shown_s = now_s
            self._update()

    def wait(self, what: str, seconds: float) -> None:
        """Take note that a step is not made yet."""
        self._late_s += seconds
        now_s = time.monotonic()
        if self._shows and self._late_s >= LATE_S and now_s - self._shown_s >= 1.0:
            self._shown_s = now_s
            self._write(f"waits for {what}, {self._late_s:.0f} s")

    def reached(self, number: int) -> None:
        """Show how far a run has come that is driven elsewhere: the number of its last step."""
        if self._shows:
            self._write(_BETWEEN.join(self._pace(number)))

    def close(self) -> None:
        """Show the last step, if it was not shown."""
        if self._last is not None and not self._is_shown:
            self._update()
        if self._shows and self._display is None and self._has_line:
            sys.stderr.write("\n")

    def text(self, step: Step) -> str:
        """Return the line."""
        parts = [*self._pace(step.number), f"{step.members:,} members", f"{step.messages:,} messages"]
        if step.elapsed_s > 0:
            parts.append(f"{100 * step.wait_s / step.elapsed_s:.0f} % at the barrier")
        by_slave: dict[str, tuple[int, int]] = {}
        for group in step.groups:
            members, messages = by_slave.get(group.slave, (0, 0))
            by_slave[group.slave] = members + group.members, messages + group.messages
        if len(by_slave) > 1:
            parts += [
                f"{slave}: {members:,} members, {messages:,} messages"
                for slave, (members, messages) in by_slave.items()
            ]
        return _BETWEEN.join(parts)

    def _pace(self, number: int) -> list[str]:
        elapsed_s = max(1e-9, time.monotonic() - self._began_s)
        steps_per_s = (number - self._first) / elapsed_s
        return [f"step {number:,} of {self._first + self._steps:,}", f"{steps_per_s:,.1f} steps/s"]

    def _update(self) -> None:
        assert self._last is not None
        self._is_shown = True
        step, shared = self._last
        if self._shows:
            self._write(self.text(step))
        if self._view is not None and (picture := self._view(step, shared())) is not None:
            if self._display is None:
                sys.stdout.write(f"{picture}\n")
            elif self._picture is None:
                self._picture = self._display(picture, display_id=True)
            else:
                self._picture.update(picture)

    def _write(self, text: str) -> None:
        self._has_line = True
        content = {"text/plain": text, "text/html": line_html(text)}
        if self._display is None:
            sys.stderr.write(f"\r{text}\033[K")
            sys.stderr.flush()
        elif self._line is None:
            self._line = self._display(content, raw=True, display_id=True)
        else:
            self._line.update(content, raw=True)


def line_html(text: str) -> str:
    """Return the line as HTML, which is broken between its parts where there is no room for all of them."""
    parts = (html.escape(part) for part in text.split(_BETWEEN))
    return "".join(f'<span style="display:inline-block;margin-right:1.2em">{part}</span>' for part in parts)


def _notebook_display() -> Any:
    """Return IPython's `display` in a notebook, else None."""
    ipython = sys.modules.get("IPython")
    shell = ipython.get_ipython() if ipython is not None else None
    if shell is None or not hasattr(shell, "kernel"):
        return None
    return sys.modules["IPython.display"].display
