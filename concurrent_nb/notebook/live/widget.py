"""The widget that sends the parts of a job's page to the browser, and the program that inserts them there.

Used by `live_display`, if anywidget is installed. The widget itself is not displayed: a page of HTML is displayed,
which a saved notebook keeps, and the program finds it by its CSS class and updates it. So a page without a kernel is
complete, and a reloaded page only needs a new widget, which the kernel can open while a cell blocks. Data flow only
from the kernel to the browser, because a kernel whose cell blocks processes no messages.
"""

from pathlib import Path
from typing import Any, Final

import anywidget
import traitlets

from concurrent_nb.notebook.live.colours import viridis

_STATIC: Final = Path(__file__).parents[1] / "static"


class JobWidget(anywidget.AnyWidget):
    """The parts of a job's page. Each trait is always sent completely, except for `tiles`."""

    _esm = (_STATIC / "live.js").read_text(encoding="utf-8")

    page_class = traitlets.Unicode().tag(sync=True)  #: CSS class of the pages of this job
    head = traitlets.Unicode().tag(sync=True)
    bars = traitlets.Unicode().tag(sync=True)
    errors = traitlets.Unicode().tag(sync=True)
    timeline = traitlets.Unicode().tag(sync=True)
    view = traitlets.Unicode().tag(sync=True)
    tiles = traitlets.Any(None).tag(sync=True)
    colours = traitlets.Bytes(viridis()).tag(sync=True)
    beat = traitlets.Any(None).tag(sync=True)  #: (number, the progress as text): a sign that the kernel is alive
    last = traitlets.Unicode().tag(sync=True)  #: the final page, when the job has ended

    def send_parts(self, parts: dict[str, Any]) -> None:
        """Send parts of the page in one message."""
        with self.hold_sync():
            for name, part in parts.items():
                setattr(self, name, part)

    def mime_bundle(self) -> dict[str, Any]:
        """Return the MIME bundle of the widget, for front ends that run its program only if it is displayed."""
        bundle: Any = self._repr_mimebundle_()
        data: dict[str, Any] = bundle[0] if isinstance(bundle, tuple) else bundle
        return data

    def close(self) -> None:
        """Close it, and the model of its layout, which anywidget leaves open."""
        layout = self.layout
        super().close()
        if layout is not None:
            layout.close()
