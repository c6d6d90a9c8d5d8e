"""Check traces in Chrome's trace event format, as strictly as viewers that draw them need it."""

import itertools
import json
import math
from collections import defaultdict
from pathlib import Path
from typing import Any, NoReturn

import fastjsonschema

from concurrent_nb.telemetry.trace_format import TraceEvent

_TEXT, _NUMBER, _TIME = {"type": "string"}, {"type": "integer"}, {"type": "number", "minimum": 0}
_EVENT_MEMBERS = {"name": _TEXT, "ph": _TEXT, "ts": _TIME, "pid": _NUMBER, "tid": _NUMBER}


def _phase(phases: list[str], needs: dict[str, Any], may_have: dict[str, Any] | None = None) -> dict[str, Any]:
    members = {**_EVENT_MEMBERS, "ph": {"enum": phases}, **needs}
    return {
        "type": "object",
        "required": list(members),
        "properties": {**members, **(may_have or {})},
        "additionalProperties": False,
    }


def _names(what: str, argument: str, kind: dict[str, Any]) -> dict[str, Any]:
    args = {"type": "object", "required": [argument], "properties": {argument: kind}, "additionalProperties": False}
    return _phase(["M"], {"name": {"enum": [f"process_{what}", f"thread_{what}"]}, "args": args})


#: an event, of those that the "Trace Event Format" of the Chromium project has: complete, instant, flow, metadata
EVENT_SCHEMA = {
    "oneOf": [
        _phase(["X"], {"cat": _TEXT, "dur": _TIME}, {"args": {"type": "object"}}),
        _phase(["i"], {"cat": _TEXT, "s": {"enum": ["g", "p", "t"]}}, {"args": {"type": "object"}}),
        _phase(["s", "t"], {"cat": _TEXT, "id": _NUMBER}),
        _phase(["f"], {"cat": _TEXT, "id": _NUMBER, "bp": {"const": "e"}}),
        _names("name", "name", _TEXT),
        _names("sort_index", "sort_index", _NUMBER),
    ]
}
#: a file in the JSON object format
FILE_SCHEMA = {
    "type": "object",
    "required": ["traceEvents"],
    "properties": {
        "traceEvents": {"type": "array", "items": {"type": "object"}},
        "displayTimeUnit": {"enum": ["ms", "ns"]},
        "otherData": {"type": "object"},
    },
    "additionalProperties": False,
}
_check_event = fastjsonschema.compile(EVENT_SCHEMA)
_check_file = fastjsonschema.compile(FILE_SCHEMA)


def read_trace(path: Path) -> list[TraceEvent]:
    """Return the events of a file. Fails unless it is strict JSON in the format, as `check_trace` checks it."""

    def refuse(constant: str) -> NoReturn:
        raise AssertionError(f"{path} has {constant}, which is no JSON")

    content = json.loads(path.read_text(encoding="utf-8"), parse_constant=refuse)
    _check_file(content)
    events: list[TraceEvent] = content["traceEvents"]
    check_trace(events)
    return events


def check_trace(events: list[TraceEvent]) -> None:
    """Fail unless every event is complete, slices of a row do not overlap, and arrows go forwards between slices."""
    slices: defaultdict[tuple[int, int], list[tuple[float, float]]] = defaultdict(list)
    flows: defaultdict[int, list[TraceEvent]] = defaultdict(list)
    for event in events:
        _check_event(event)
        assert math.isfinite(event["ts"] + event.get("dur", 0))
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
