"""Plots of the DNA samples, with matplotlib."""

from typing import TYPE_CHECKING, Final

import numpy as np

from concurrent_nb.samples.dna.helix import HALO, MEASURES, Floats, oriented

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

#: axis and strands; of Okabe & Ito's palette, which the colour-blind can tell apart
_AXIS_COLOUR: Final = "black"
_STRAND_COLOURS: Final = ("#0072B2", "#D55E00")
#: points of a line; more are not seen
_MAX_POINTS: Final = 4000


def plot_profile(measures: Floats, name: str) -> "Figure":
    """Return a figure of the three measures along the sequence."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7.2, 5), layout="constrained")
    for axes, row, title in zip(figure.subplots(3, 1, sharex=True), measures, MEASURES, strict=True):
        _plot_measure(axes, row, title)
    axes.set_xlabel("nucleotide")
    figure.suptitle(name)
    return figure


def plot_helix(points: Floats, measures: Floats, name: str) -> "Figure":
    """Return a figure of six panels: the helix from three sides, and the three measures."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(8.4, 5.8), layout="constrained")
    panels = figure.subplots(2, 3)
    turned = oriented(points)
    for axes, (across, up) in zip(panels[0], ((0, 2), (0, 1), (1, 2)), strict=True):
        for row, colour, width in zip(turned[:3], (_AXIS_COLOUR, *_STRAND_COLOURS), (1.6, 0.7, 0.7), strict=True):
            few = row[:: max(1, len(row) // _MAX_POINTS)]
            axes.plot(few[:, across], few[:, up], color=colour, linewidth=width)
        axes.set(xlabel=f"{'xyz'[across]} (Å)", ylabel=f"{'xyz'[up]} (Å)")
        axes.set_aspect("equal", adjustable="datalim")
    for axes, row, title in zip(panels[1], measures, MEASURES, strict=True):
        _plot_measure(axes, row, title)
        axes.set_xlabel("nucleotide")
    figure.suptitle(name)
    return figure


def _plot_measure(axes: "Axes", row: Floats, title: str) -> None:
    """Plot a measure without the nucleotides near the ends, where it is an artefact or not defined.

    Of a long sequence, the band between the least and the greatest of neighbours is shown.
    """
    ends = min(HALO, (len(row) - 1) // 2)
    inner = row[ends : len(row) - ends]
    group = -(-len(inner) // _MAX_POINTS)
    if group > 1:
        starts = np.arange(0, len(inner), group)
        least, greatest = np.minimum.reduceat(inner, starts), np.maximum.reduceat(inner, starts)
        axes.fill_between(starts + ends + 1, least, greatest, color=_STRAND_COLOURS[0], linewidth=0.3)
    else:
        axes.plot(np.arange(len(inner)) + ends + 1, inner, color=_STRAND_COLOURS[0], linewidth=0.9)
    axes.set_ylabel(title)
    axes.grid(alpha=0.3)
    axes.margins(x=0.01)
