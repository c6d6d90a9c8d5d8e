"""The progress of a world while it runs: a line, and what the user's `view` returns.

In a notebook both are displays that are updated; on a terminal the line is rewritten.
"""

import sys
import time
from collections.abc import Callable, Mapping
from typing import Any, Final

from concurrent_nb.worlds.step_record import Step

#: seconds between two updates
UPDATE_S: Final = 0.2
#: seconds of a step after which the line shows what it waits for
LATE_S: Final = 2.0


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

    def close(self) -> None:
        """Show the last step, if it was not shown."""
        if self._last is not None:
            if not self._is_shown:
                self._update()
            if self._shows and self._display is None:
                sys.stderr.write("\n")

    def text(self, step: Step) -> str:
        """Return the line."""
        elapsed_s = max(1e-9, time.monotonic() - self._began_s)
        done = step.number - self._first
        parts = [
            f"step {step.number:,} of {self._first + self._steps:,}",
            f"{done / elapsed_s:,.1f} steps/s",
            f"{step.members:,} members",
            f"{step.messages:,} messages",
        ]
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
        return " · ".join(parts)

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
        if self._display is None:
            sys.stderr.write(f"\r{text}\033[K")
            sys.stderr.flush()
        elif self._line is None:
            self._line = self._display({"text/plain": text}, raw=True, display_id=True)
        else:
            self._line.update({"text/plain": text}, raw=True)


def _notebook_display() -> Any:
    """Return IPython's `display` in a notebook, else None."""
    ipython = sys.modules.get("IPython")
    shell = ipython.get_ipython() if ipython is not None else None
    if shell is None or not hasattr(shell, "kernel"):
        return None
    return sys.modules["IPython.display"].display
