"""Check traces in Chrome's trace event format, as strictly as viewers that draw them need it."""

import itertools
import math
from collections import defaultdict
from typing import Any

from concurrent_nb.telemetry.trace_format import TraceEvent

PHASES = {"X", "M", "i", "s", "t", "f"}
METADATA = {"process_name", "process_sort_index", "thread_name", "thread_sort_index"}


def check_trace(events: list[TraceEvent]) -> None:
    """Fail unless every event is complete, slices of a row do not overlap, and arrows go forwards between slices."""
    slices: defaultdict[tuple[int, int], list[tuple[float, float]]] = defaultdict(list)
    flows: defaultdict[int, list[TraceEvent]] = defaultdict(list)
    for event in events:
        _check_event(event)
        row = event["pid"], event["tid"]
        if event["ph"] == "X":
            slices[row].append((event["ts"], event["ts"] + event["dur"]))
        elif event["ph"] in "stf":
            flows[event["id"]].append(event)
    rows = rows_of(events)
    for row, spans in slices.items():
        assert row in rows, f"row {row} has no name"
        spans.sort()
        for (_, end), (start, later) in itertools.pairwise(spans):
            assert start >= end - 0.002 or later <= end + 0.002, f"slices of {rows[row]} overlap"
    for number, stops in flows.items():
        assert [stop["ph"] for stop in stops] == ["s", *"t" * (len(stops) - 2), "f"], f"flow {number} lacks an end"
        times = [stop["ts"] for stop in stops]
        assert times == sorted(times), f"flow {number} goes backwards"
        for stop in stops:
            spans = slices[stop["pid"], stop["tid"]]
            assert any(start <= stop["ts"] <= end + 0.002 for start, end in spans), f"flow {number} is in no slice"


def _check_event(event: TraceEvent) -> None:
    assert event["ph"] in PHASES
    for member in ("pid", "tid"):
        assert isinstance(event[member], int)
    assert isinstance(event["name"], str)
    assert math.isfinite(event["ts"])
    assert event["ts"] >= 0
    if event["ph"] == "X":
        assert math.isfinite(event["dur"])
        assert event["dur"] >= 0
    elif event["ph"] == "M":
        assert event["name"] in METADATA


def rows_of(events: list[TraceEvent]) -> dict[tuple[int, int], tuple[str, str]]:
    """Return the names of process and row, by pid and tid. Fails if two have the same."""
    processes: dict[int, str] = {}
    rows: dict[tuple[int, int], tuple[str, str]] = {}
    for event in events:
        if event["name"] == "process_name" and event["ph"] == "M":
            assert event["pid"] not in processes
            processes[event["pid"]] = event["args"]["name"]
    for event in events:
        if event["name"] == "thread_name" and event["ph"] == "M":
            key = event["pid"], event["tid"]
            assert key not in rows
            rows[key] = processes[event["pid"]], event["args"]["name"]
    assert len(set(rows.values())) == len(rows)
    return rows


def slices_of_tasks(events: list[TraceEvent]) -> list[dict[str, Any]]:
    """Return the slices of tasks in workers, in their order in the trace."""
    return [event for event in events if event["ph"] == "X" and event["cat"].split(",")[0] == "task"]
