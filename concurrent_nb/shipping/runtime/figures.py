"""matplotlib's backend in tasks: `show` displays figures in the cell that waits for the task.

It is the MPLBACKEND of workers, so matplotlib loads it when a task first uses pyplot. Figures that a task leaves open
are shown when it ends, as in notebooks.
"""

import sys
from typing import Any, Final

from matplotlib.backend_bases import FigureManagerBase
from matplotlib.backends.backend_agg import FigureCanvasAgg

from concurrent_nb.shipping.runtime.notes import display, shares_process

#: the value of the environment variable MPLBACKEND
BACKEND: Final = f"module://{__name__}"


class FigureManager(FigureManagerBase):
    """A figure that is sent to be shown. Raises RuntimeError where other tasks run in this process."""

    def __init__(self, canvas: Any, num: int | str) -> None:
        if shares_process():
            raise RuntimeError(
                "pyplot has one current figure for the whole process, and tasks in threads share one: draw on a "
                "matplotlib.figure.Figure() and display() it, or leave out --needs threads"
            )
        super().__init__(canvas, num)

    def show(self) -> None:
        """Send this figure in its present state."""
        display(self.canvas.figure)

    @classmethod
    def pyplot_show(cls, *, block: bool | None = None) -> None:
        """Send all open figures and close them."""
        show_open()


class FigureCanvas(FigureCanvasAgg):
    """A canvas that draws with Agg, which needs no screen."""

    manager_class = FigureManager


def show_open() -> None:
    """Send all open figures and close them. Raises TooLarge."""
    pyplot: Any = sys.modules["matplotlib.pyplot"]
    try:
        for number in pyplot.get_fignums():
            display(pyplot.figure(number))
    finally:
        pyplot.close("all")
