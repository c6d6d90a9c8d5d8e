"""The widget: what a browser is told of a job while it runs, and the program that shows it there.

Used by `line`, which imports it when anywidget is there. It is never displayed: what is displayed is a page of HTML,
which a saved notebook keeps, and the program finds that by its class and keeps it up to date. So a page without a
kernel has no widget to miss, and one that was loaded again only needs a new widget, which the kernel can open while a
cell blocks. The kernel says, the browser shows; nothing comes back, because a kernel whose cell blocks could not hear
it.
"""

from pathlib import Path
from typing import Any, Final

import anywidget
import traitlets

from concurrent_nb.notebook.live.colours import viridis

_STATIC: Final = Path(__file__).parents[1] / "static"


class JobWidget(anywidget.AnyWidget):
    """A job. Each trait is one part of its page and is always sent whole, but for `tiles`."""

    _esm = (_STATIC / "live.js").read_text(encoding="utf-8")

    page_class = traitlets.Unicode().tag(sync=True)  #: class of the pages that are this job's
    head = traitlets.Unicode().tag(sync=True)
    bars = traitlets.Unicode().tag(sync=True)
    errors = traitlets.Unicode().tag(sync=True)
    timeline = traitlets.Unicode().tag(sync=True)
    view = traitlets.Unicode().tag(sync=True)
    tiles = traitlets.Any(None).tag(sync=True)
    colours = traitlets.Bytes(viridis()).tag(sync=True)
    beat = traitlets.Any(None).tag(
        sync=True
    )  #: (number, the progress as text): changes for as long as the kernel lives
    last = traitlets.Unicode().tag(sync=True)  #: the page when the job has ended

    def send_parts(self, parts: dict[str, Any]) -> None:
        """Send parts of the page, in one message."""
        with self.hold_sync():
            for name, part in parts.items():
                setattr(self, name, part)

    def mime_bundle(self) -> dict[str, Any]:
        """Give what shows the widget itself, for pages that run its program only where that is displayed."""
        given: Any = self._repr_mimebundle_()
        data: dict[str, Any] = given[0] if isinstance(given, tuple) else given
        return data

    def close(self) -> None:
        """End it, and the model of its layout, which nobody else would end."""
        layout = self.layout
        super().close()
        if layout is not None:
            layout.close()
