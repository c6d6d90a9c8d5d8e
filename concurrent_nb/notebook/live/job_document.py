"""What the cell shows of a job, as a bounded JSON document: the view that `view_publisher` shares with the master.

    JobViewModel, OutputTail --> JobDocument.encode() --> share_view --> a panel, the web page, a reloaded notebook

The format is in section 11 of wire/PROTOCOL.md.
"""

import base64
import math
import threading
from typing import Any, Final

import msgspec

from concurrent_nb import Job
from concurrent_nb.clock import Clock, monotonic
from concurrent_nb.notebook.live.job_view_model import JobViewModel
from concurrent_nb.notebook.live.picture import Still
from concurrent_nb.notebook.live.text import line_of
from concurrent_nb.notebook.live.views import ImageView
from concurrent_nb.notebook.output_tail import OutputTail
from concurrent_nb.notebook.progress_display import job_text
from concurrent_nb.wire.jsonrpc import MAX_VIEW_BYTES

FORMAT: Final = 1
#: most characters of the progress or the summary
TEXT_CHARACTERS: Final = 500
#: most characters of a picture in base64; a larger one is drawn smaller
PNG_CHARACTERS: Final = 700_000
#: bytes of the document that are left for what stands around the outputs
_AROUND_BYTES: Final = 200


class JobDocument:
    """The view of one job that is shared. `encode` is for one thread, the rest for any.

    Args:
        job: the job.
        model: what is shown of it.
        lock: guards the model.
        started: when the job was started, by `clock`.
        tail: what the Printer of its cell shows.
    """

    def __init__(
        self,
        job: Job,
        model: JobViewModel,
        lock: threading.Lock,
        started: float,
        tail: OutputTail,
        clock: Clock = monotonic,
    ) -> None:
        self.job = job
        self.is_final = False  #: nothing of it will change any more
        self._model = model
        self._lock = lock
        self._started = started
        self._tail = tail
        self._clock = clock
        self._summary: str | None = None
        self._drawn: tuple[int, str, int] | None = None  # version of the picture, its PNG in base64, drawn smaller by

    def summarize(self, text: str) -> None:
        """Show this text instead of the progress."""
        self._summary = text

    def finish(self) -> None:
        """Note that nothing will change any more."""
        self.is_final = True

    @property
    def version(self) -> object:
        """What differs when something has changed; the time that passes is no change."""
        model = self._model
        return (
            self.job.id,
            self.is_final,
            self._summary,
            model.view_version,
            model.bars_version,
            model.error_groups.version,
            self._tail.version,
        )

    def encode(self) -> bytes:
        """Return the document as JSON, of at most MAX_VIEW_BYTES."""
        document = self._without_outputs()
        size_bytes = len(msgspec.json.encode(document))
        if size_bytes > MAX_VIEW_BYTES - _AROUND_BYTES:  # only with texts of which most characters are escaped
            document["view"] = None
            size_bytes = len(msgspec.json.encode(document))
        outputs, dropped_bytes = self._tail.parts(MAX_VIEW_BYTES - _AROUND_BYTES - size_bytes)
        return msgspec.json.encode({**document, "outputs": outputs, "dropped_bytes": dropped_bytes})

    def _without_outputs(self) -> dict[str, Any]:
        model, still, version = self._model, None, 0
        is_over = self.is_final  # before the rest, which may change meanwhile
        with self._lock:
            bars, errors, view = model.bars(), model.error_groups.parts(), self._view_parts()
            if isinstance(model.view, ImageView) and view is not None:
                version = model.view.picture.version
                if self._drawn is None or self._drawn[0] != version:
                    still = model.view.picture.still()
        if view is not None and view["kind"] == "image":
            # Outside of the lock, because it takes a while.
            if still is not None:
                self._drawn = (version, *_drawn(still))
            _, png, times = self._drawn or (0, "", 1)
            view = {**view, "png": png, "step": view["step"] * times}
        text = self._summary if self._summary is not None else job_text(self.job, self._clock() - self._started)
        return {
            "format": FORMAT,
            "text": line_of(text, TEXT_CHARACTERS),
            "is_over": is_over,
            "bars": bars,
            "errors": errors,
            "view": view,
        }

    def _view_parts(self) -> dict[str, Any] | None:
        """Return the content of the view; None if there is none, or if it has failed, which the cell reports."""
        try:
            return self._model.view_parts()
        except Exception:  # noqa: BLE001  (it calls code of the user's values)
            return None


def _drawn(still: Still) -> tuple[str, int]:
    """Return a picture in base64, and how many times smaller it is drawn so that it fits."""
    times = 1
    while True:
        png = base64.b64encode(still.png(times)).decode()
        if len(png) <= PNG_CHARACTERS:
            return png, times
        times = max(times + 1, math.ceil(times * math.sqrt(len(png) / PNG_CHARACTERS)))
