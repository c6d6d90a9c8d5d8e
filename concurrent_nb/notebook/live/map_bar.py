"""The progress bar of an application's `map` in a notebook: the head of a job's page."""

import time
from typing import Any, Final

from IPython.display import DisplayHandle, display

from concurrent_nb.nodes.application.progress_bar import Bar, Kind
from concurrent_nb.notebook.live import job_page
from concurrent_nb.notebook.live.text import seconds_text

#: minimum time between updates of a display, in seconds
UPDATED_EVERY_S: Final = 0.25


class MapBar:
    """A display that is updated, and keeps the counts and the time at the end."""

    def __init__(self, name: str) -> None:
        self._name = name
        self._began_s = time.monotonic()
        self._updated_s = 0.0
        self._last = (0, 0)
        self._handle: DisplayHandle | None = None

    def move(self, done: int, total: int) -> None:
        """Show the number of items that have ended, and of items that are known."""
        self._last = done, total
        now = time.monotonic()
        if now - self._updated_s >= UPDATED_EVERY_S:
            self._updated_s = now
            self._show()

    def close(self) -> None:
        """Show the final counts."""
        self._show()

    def _show(self) -> None:
        done, total = self._last
        elapsed_s = time.monotonic() - self._began_s
        rate = done / elapsed_s if done else None
        left_s = None if rate is None else (total - done) / rate
        data: dict[str, Any] = {
            "name": self._name,
            "total": total,
            "done": done,
            "running": 0,
            "waiting": total - done,
            "waits_for": "",
            "failed": 0,
            "cancelled": 0,
            "part": 0,
            "rate": rate,
            "left": left_s,
            "elapsed": elapsed_s,
        }
        text = f"{self._name}: {done:,} of {total:,} items in {seconds_text(elapsed_s)}"
        content = {"text/plain": text, "text/html": job_page.page({"head": job_page.head(data)})}
        if self._handle is None:
            self._handle = display(content, raw=True, display_id=True)  # type: ignore[no-untyped-call]
        else:
            self._handle.update(content, raw=True)  # type: ignore[no-untyped-call]


def notebook_bar(kind: Kind, name: str) -> Bar | None:
    """Return the bar of a map; None for jobs, which have live displays."""
    return MapBar(name) if kind == "map" else None
