"""Decide when which part of a job's page is sent to the browser.

A slow browser cannot signal back to a kernel whose cell blocks. So the rate is limited to what every browser and every
network can process: few messages, few bytes, and fewer as the job goes on. Pure; `live_display` sends the parts.
"""

from dataclasses import dataclass
from typing import Any, Final

from concurrent_nb.api import Counts
from concurrent_nb.notebook.live import job_page
from concurrent_nb.notebook.live.job_view_model import JobViewModel
from concurrent_nb.notebook.live.picture import Patch
from concurrent_nb.notebook.live.views import ImageView

#: maximum bytes of pixels per second, and in a burst
PIXELS_S: Final = 1_500_000
PIXELS_BURST: Final = 1_000_000
#: minimum time in seconds between two messages: 20 messages per second
TICK_S: Final = 0.05
#: minimum times in seconds between two updates of a part; multiplied by 1 plus the job's minutes, up to SLOWEST
HEAD_S: Final = 0.1
QUIET_HEAD_S: Final = 0.5
BARS_S: Final = 0.1
ERRORS_S: Final = 0.2
VIEW_S: Final = 0.3
TIMELINE_S: Final = 0.4
SLOWEST: Final = 4
#: the whole picture is sent again after this time in seconds, which doubles each time, for browsers that have opened or
#: reloaded the page meanwhile
WHOLE_S: Final = 0.5
#: minimum time in seconds between two whole pictures that are sent because the range of values has changed
RANGE_S: Final = 0.4


@dataclass(slots=True)
class _SentPart:
    """When a part was last sent, and its version."""

    sent_at: float = -1e9
    version: Any = None


class UpdateThrottle:
    """Decides which parts of a job to send. Times are in seconds since the start of the job."""

    def __init__(self, model: JobViewModel) -> None:
        self._model = model
        self._parts: dict[str, _SentPart] = {}
        self._allowance = float(PIXELS_BURST)
        self._counted_at = 0.0
        self._whole_after = WHOLE_S
        self._whole_at = 0.0
        self._ranged_at = -1e9
        self._number = 0

    def take(self, counts: Counts, elapsed: float, now: float) -> dict[str, Any]:
        """Return the parts that are due, by name, most of them as HTML.

        Args:
            now: by the clock of the job's events; `elapsed` is the time since its start.
        """
        model, pace = self._model, min(SLOWEST, 1 + elapsed / 60)
        due: dict[str, Any] = {}
        quiet = self._parts.get("head", _SentPart()).version == counts
        if self._due("head", (QUIET_HEAD_S if quiet else HEAD_S) * pace, elapsed):
            due["head"] = job_page.head(model.head(counts, now))
            self._parts["head"].version = counts
        if self._due("bars", BARS_S * pace, elapsed, model.bars_version):
            due["bars"] = job_page.bars(model.bars())
        if self._due("errors", ERRORS_S * pace, elapsed, model.error_groups.version):
            due["errors"] = job_page.errors(model.error_groups.parts())
        if self._due("timeline", TIMELINE_S * pace, elapsed):
            due["timeline"] = job_page.timeline(model.timeline_parts(elapsed))
        if model.view is not None and self._due("view", VIEW_S * pace, elapsed, model.view_version):
            due["view"] = job_page.view(model.view_parts())
        if isinstance(model.view, ImageView) and (patch := self._patch(model.view, elapsed)) is not None:
            due["tiles"] = self._packed(patch)
        return due

    def whole(self, counts: Counts, elapsed: float, now: float) -> dict[str, Any]:
        """Return all parts, for a new widget."""
        parts: dict[str, Any] = self.page_parts(counts, elapsed, now)
        view = self._model.view
        if isinstance(view, ImageView) and (patch := view.picture.take(whole=True)) is not None:
            self._allowance -= len(patch.data)
            parts["tiles"] = self._packed(patch)
        return parts

    def page_parts(self, counts: Counts, elapsed: float, now: float) -> dict[str, str]:
        """Return the parts of the current page."""
        model = self._model
        return {
            "head": job_page.head(model.head(counts, now)),
            "bars": job_page.bars(model.bars()),
            "errors": job_page.errors(model.error_groups.parts()),
            "timeline": job_page.timeline(model.timeline_parts(elapsed)),
            "view": job_page.view(model.view_parts()),
        }

    def _due(self, name: str, every: float, elapsed: float, version: Any = None) -> bool:
        """Return whether a part is due; if so, it counts as sent."""
        part = self._parts.setdefault(name, _SentPart())
        if elapsed - part.sent_at < every or (version is not None and version == part.version):
            return False
        part.sent_at = elapsed
        if version is not None:
            part.version = version
        return True

    def _patch(self, view: ImageView, elapsed: float) -> Patch | None:
        picture = view.picture
        self._allowance += (elapsed - self._counted_at) * PIXELS_S
        self._allowance = min(self._allowance, max(PIXELS_BURST, 1.5 * picture.whole_bytes))
        self._counted_at = elapsed
        late = elapsed - self._whole_at >= self._whole_after
        ranged = picture.has_range_news and elapsed - self._ranged_at >= RANGE_S
        whole = (late or ranged) and self._allowance >= picture.whole_bytes
        if self._allowance <= 0 or (patch := picture.take(whole)) is None:
            return None
        if patch.full:
            self._ranged_at = elapsed
            if late:
                self._whole_at = elapsed
                self._whole_after *= 2
        self._allowance -= len(patch.data)
        return patch

    def _packed(self, patch: Patch) -> dict[str, Any]:
        self._number += 1
        return {
            "number": self._number,
            "width": patch.width,
            "height": patch.height,
            "colours": patch.colours,
            "full": patch.full,
            "rects": patch.rects,
            "data": patch.data,
        }
