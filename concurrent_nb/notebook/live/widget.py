"""The widget: what a browser is told of a job, and the program that shows it there.

Used by `line`, which imports it when anywidget is there. The kernel says, the browser shows; nothing comes back,
because a kernel whose cell blocks could not hear it.
"""

from pathlib import Path
from typing import Any, Final

import anywidget
import traitlets

from concurrent_nb.notebook.live.colours import STATE_COLOURS, viridis

_STATIC: Final = Path(__file__).parents[1] / "static"


class JobWidget(anywidget.AnyWidget):
    """A job in a cell. Each trait is one part of its story and is always sent whole, but for `tiles`."""

    _esm = (_STATIC / "live.js").read_text(encoding="utf-8")
    _css = (_STATIC / "live.css").read_text(encoding="utf-8")

    head = traitlets.Any(None).tag(sync=True)
    bars = traitlets.Any(None).tag(sync=True)
    errors = traitlets.Any(None).tag(sync=True)
    lanes = traitlets.Any(None).tag(sync=True)
    view = traitlets.Any(None).tag(sync=True)
    tiles = traitlets.Any(None).tag(sync=True)
    colours = traitlets.Bytes(viridis()).tag(sync=True)
    states = traitlets.List(list(STATE_COLOURS)).tag(sync=True)

    def tell(self, parts: dict[str, Any]) -> None:
        """Send parts of the story, in one message."""
        with self.hold_sync():
            for name, part in parts.items():
                setattr(self, name, part)

    def bundle(self, text: str) -> tuple[dict[str, Any], dict[str, Any]]:
        """Give what a notebook displays: this widget, or `text` where there are none."""
        given: Any = self._repr_mimebundle_()
        data, metadata = given if isinstance(given, tuple) else (given, {})
        return {**data, "text/plain": text}, metadata

    def close(self) -> None:
        """End it, and the model of its layout, which nobody else would end."""
        layout = self.layout
        super().close()
        if layout is not None:
            layout.close()
