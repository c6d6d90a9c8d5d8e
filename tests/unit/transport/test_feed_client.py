"""What a reader makes of messages."""

import base64
from typing import Any

import pytest

from concurrent_nb.errors import ProtocolError
from concurrent_nb.transport.feed_client import EVENTS_KEPT, MARK_BYTES, MARKS_KEPT, apply

SNAPSHOT: dict[str, Any] = {
    "epoch": 7,
    "seq": 3,
    "time_s": 1.0,
    "name": "east",
    "uptime_s": 1.0,
    "totals": {"done": 1},
    "slaves": {"a": {"busy": 1}, "b": {"busy": 2}},
    "jobs": {},
    "stream": {"lanes": [], "functions": [], "first": 0, "skipped": 0, "marks": ""},
    "graphs": {},
    "running": [],
    "events": [],
}


def fresh() -> dict[str, Any]:
    return apply({}, "snapshot", {**SNAPSHOT, "slaves": dict(SNAPSHOT["slaves"])})


def delta(**changes: Any) -> dict[str, Any]:
    return {"epoch": 7, "seq": 4, "since": 3, "time_s": 2.0, **changes}


def marks(count: int, byte: bytes = b"m") -> str:
    return base64.b64encode(byte * (count * MARK_BYTES)).decode()


def test_a_heartbeat_changes_only_the_number_and_the_time() -> None:
    state = apply(fresh(), "delta", delta())
    assert state == {**fresh(), "seq": 4, "time_s": 2.0}


def test_entities_go_before_others_come() -> None:
    gone = {"slaves": ["a", "never had"], "jobs": []}
    state = apply(fresh(), "delta", delta(gone=gone, slaves={"c": {"busy": 3}}, totals={"done": 2}))
    assert state["slaves"] == {"b": {"busy": 2}, "c": {"busy": 3}}
    assert state["totals"] == {"done": 2}


@pytest.mark.parametrize("changes", [{"since": 2}, {"since": 4}, {"epoch": 8}])
def test_a_delta_on_another_state_is_refused(changes: dict[str, int]) -> None:
    with pytest.raises(ProtocolError, match="came to a reader of state 3"):
        apply(fresh(), "delta", delta(**changes))


def test_the_last_marks_and_events_are_kept() -> None:
    stream = {"first": 0, "skipped": 7, "marks": marks(MARKS_KEPT, b"a"), "lanes": ["east/1"]}
    events = [{"number": number} for number in range(EVENTS_KEPT)]
    state = apply(fresh(), "delta", delta(stream=stream, events=events))
    more = {"first": MARKS_KEPT + 7, "skipped": 0, "marks": marks(3, b"b")}
    state = apply(state, "delta", {**delta(stream=more, events=[{"number": EVENTS_KEPT}]), "since": 4, "seq": 5})
    assert state["stream"]["lanes"] == ["east/1"]
    assert (state["stream"]["first"], state["stream"]["skipped"]) == (3, 7)
    assert len(state["stream"]["marks"]) == MARKS_KEPT * MARK_BYTES
    assert state["stream"]["marks"].endswith(b"b" * (3 * MARK_BYTES))
    assert [event["number"] for event in state["events"]] == list(range(1, EVENTS_KEPT + 1))
