"""Slaves, jobs and settings of a cluster as tables: what `slaves`, `jobs`, `config` and `top` print. Pure."""

from collections.abc import Mapping, Sequence
from typing import Any, Final

from concurrent_nb.cli.status import write_span
from concurrent_nb.cli.table import Colour, Column, Style, TableCell, table
from concurrent_nb.shipping.serialization.sizes import format_bytes

_STATES: Final[dict[str, Colour]] = {
    "active": "green",
    "running": "green",
    "draining": "yellow",
    "joining": "yellow",
    "stopping": "yellow",
    "waiting": "yellow",
    "suspected": "red",
    "idle": "dim",
}
_SLAVE: Final = (
    Column("SLAVE", shrinks=True),
    Column("STATE"),
    Column("HOST", shrinks=True, drop=2),
    Column("CORES", right=True, drop=4),
    Column("WORKERS", right=True),
    Column("BUSY", right=True),
    Column("NEXT", right=True, drop=3),
    Column("DONE", right=True),
    Column("LOAD", right=True, drop=1),
    Column("MEMORY", right=True, drop=1),
    Column("UP", drop=5),
)
_JOB: Final = (
    Column("ID"),
    Column("NAME", shrinks=True),
    Column("STATE"),
    Column("DONE", right=True),
    Column("TASKS", right=True),
    Column("ASSIGNED", right=True, drop=2),
    Column("APPLICATION", shrinks=True, drop=1),
    Column("AGE", drop=3),
)
_ORIGIN: Final = (Column("NOTEBOOK", shrinks=True, drop=4), Column("CELL", shrinks=True, drop=5))
_RATE: Final = Column("TASKS/S", right=True)


def slave_table(
    slaves: Sequence[Mapping[str, Any]], style: Style, rates: Mapping[str, float] | None = None
) -> list[str]:
    """Return a table of slaves, as `status` lists them; with `rates`, their ended tasks per second by name."""
    columns = _SLAVE if rates is None else (*_SLAVE[:7], _RATE, *_SLAVE[7:])
    rows = []
    for slave in slaves:
        used, total = slave["memory_used_bytes"], slave["memory_total_bytes"]
        row: list[TableCell | str] = [
            slave["name"],
            TableCell(slave["state"], _STATES.get(slave["state"], "")),
            slave.get("place") or slave["host"],
            str(slave["cores"] or "?"),
            f"{slave['slots']:,}",
            f"{slave['busy']:,}",
            f"{max(0, slave['in_flight'] - slave['busy']):,}",
            f"{slave['done']:,}",
            "?" if slave["load"] is None else f"{slave['load']:.1f}",
            f"{format_bytes(used)} of {format_bytes(total)}" if total else "?",
            write_span(slave["uptime_s"]),
        ]
        if rates is not None:
            row.insert(7, _rate(rates.get(slave["name"])))
        rows.append(row)
    return table(columns, rows, style)


def job_table(jobs: Sequence[Mapping[str, Any]], style: Style, rates: Mapping[str, float] | None = None) -> list[str]:
    """Return a table of jobs, as `status` lists them; with `rates`, their ended tasks per second by id."""
    columns = _JOB if rates is None else (*_JOB[:3], _RATE, *_JOB[3:])
    has_origins = any(job.get("line") for job in jobs)
    columns = (*columns, *_ORIGIN) if has_origins else columns
    rows = []
    for job in jobs:
        row: list[TableCell | str] = [
            job["id"][:8],
            job["name"] or "-",
            TableCell(job["state"], _STATES.get(job["state"], "")),
            f"{job['done']:,}",
            f"{job['tasks']:,}",
            f"{job['assigned']:,}",
            job["client"] or ("(detached)" if job.get("detached") else "(disconnected)"),
            write_span(job["age_s"]),
        ]
        if has_origins:
            row += [job.get("notebook") or "", job.get("line") or ""]
        if rates is not None:
            row.insert(3, _rate(rates.get(job["id"])))
        rows.append(row)
    return table(columns, rows, style)


def config_table(settings: Mapping[str, Mapping[str, Any]], style: Style) -> list[str]:
    """Return a table of settings, as `config` of the control channel answers them. Changed ones are bold."""
    columns = (
        Column("SETTING"),
        Column("VALUE", shrinks=True),
        Column("MAY CHANGE"),
        Column("WHAT IT IS", shrinks=True),
    )
    rows = []
    for name, item in settings.items():
        may = "no" if not item["hot"] else "raised only" if item["note"] else "yes"
        colour: Colour = "bold" if item["value"] != item["default"] else ""
        rows.append([TableCell(name, colour), TableCell(write_value(item["value"]), colour), may, item["help"]])
    return table(columns, rows, style)


def write_value(value: Any) -> str:
    """Write the value of a setting as it is typed."""
    return ", ".join(map(str, value)) if isinstance(value, list) else str(value)


def write_rate(per_s: float | None) -> str:
    """Write a number per second with three digits.

    >>> write_rate(1234.5), write_rate(12.34), write_rate(0.5), write_rate(None)
    ('1,234', '12.3', '0.50', '?')
    """
    if per_s is None:
        return "?"
    return f"{per_s:,.0f}" if per_s >= 100 else f"{per_s:.1f}" if per_s >= 10 else f"{per_s:.2f}" if per_s else "0"


def _rate(per_s: float | None) -> str:
    return write_rate(per_s)
