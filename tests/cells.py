"""Cells of tests, given as text."""

from typing import Any

from concurrent_nb.shipping.cells.cell_code import parse_cell, parse_for, parse_until
from concurrent_nb.shipping.cells.cell_task import CellTask, cell_task


def task_of_cell(
    source: str,
    namespace: dict[str, Any],
    *,
    for_text: str | None = None,
    until_text: str | None = None,
    filename: str = "<cell>",
    header: str | None = None,
    **options: Any,
) -> CellTask:
    """Parse a cell and its options, and make a task of them."""
    return cell_task(
        parse_cell(source, filename, header),
        namespace,
        loop=parse_for(for_text) if for_text is not None else None,
        until=parse_until(until_text) if until_text is not None else None,
        **options,
    )
