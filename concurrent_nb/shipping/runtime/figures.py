"""matplotlib's backend in tasks: `show` displays figures in the cell of whoever waits for the task.

Workers have it as MPLBACKEND, so it is loaded by matplotlib when a task first uses pyplot. What a task leaves open is
shown when it ends, as notebooks do.
"""

import sys
from typing import Any, Final

from matplotlib.backend_bases import FigureManagerBase
from matplotlib.backends.backend_agg import FigureCanvasAgg

from concurrent_nb.shipping.runtime.notes import display, shares_process

#: what the environment variable MPLBACKEND has to be
BACKEND: Final = f"module://{__name__}"


class FigureManager(FigureManagerBase):
    """A figure that is shown by being sent. Raises RuntimeError where other tasks run in this process."""

    def __init__(self, canvas: Any, num: int | str) -> None:
        if shares_process():
            raise RuntimeError(
                "pyplot has one current figure for the whole process, and tasks in threads share one: draw on a "
                "matplotlib.figure.Figure() and display() it, or leave out --needs threads"
            )
        super().__init__(canvas, num)

    def show(self) -> None:
        """Send this figure as it is now."""
        display(self.canvas.figure)

    @classmethod
    def pyplot_show(cls, *, block: bool | None = None) -> None:
        """Send all open figures and close them."""
        show_open()


class FigureCanvas(FigureCanvasAgg):
    """Draws with Agg, which needs no screen."""

    manager_class = FigureManager


def show_open() -> None:
    """Send all open figures and close them. Raises TooLarge."""
    pyplot: Any = sys.modules["matplotlib.pyplot"]
    try:
        for number in pyplot.get_fignums():
            display(pyplot.figure(number))
    finally:
        pyplot.close("all")
