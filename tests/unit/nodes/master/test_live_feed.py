"""The feed of a master is what PROTOCOL.md describes."""

import json
import re
from pathlib import Path
from typing import Any

import msgspec
import pytest

import concurrent_nb.wire
from concurrent_nb.nodes.master.live_feed import pause_after
from concurrent_nb.telemetry.feed_state import FeedState, Visibility
from concurrent_nb.transport.feed_handler import WatchParams
from concurrent_nb.wire import messages as m
from tests.unit.nodes.master.bench import ALICE, EAST, JOB, Bench, function

TEXT = (Path(concurrent_nb.wire.__file__).parent / "PROTOCOL.md").read_text()
EXAMPLES = {
    value["method"]: value["params"]
    for value in map(json.loads, re.findall(r"```json\n(\{.*?\})\n```", TEXT, re.DOTALL))
    if value.get("method") in ("watch", "snapshot")
}


def shape(value: Any) -> Any:
    """Return names and types: of a mapping by names, of tables and lists those of the first member."""
    if isinstance(value, dict):
        return {name: shape(member) for name, member in sorted(value.items())}
    if isinstance(value, list):
        return [shape(member) for member in value]
    return "number" if isinstance(value, int | float) and not isinstance(value, bool) else type(value).__name__


def test_a_snapshot_is_as_the_protocol_describes_it() -> None:
    bench = Bench()
    bench.client(ALICE)
    bench.slave(EAST, slots=2)
    bench.send(EAST, m.HostLoad(1.5, 3, 8))
    tasks = [m.TaskFrame(index, 0, b"") for index in range(5)]
    bench.send(
        ALICE, m.OpenJob(JOB, "fits", False, False), function(), m.Submit(JOB, function().digest, None, 0, tasks)
    )
    bench.sent_to(EAST)
    bench.send(
        ALICE,
        m.TaskInputs(JOB, 5, [m.JobTasks(JOB, [4])]),
        function(b"another"),
        m.Submit(JOB, function(b"another").digest, None, 0, [m.TaskFrame(5, 0, b"")]),
    )
    bench.send(
        EAST, m.Started("", [m.StartedTask(JOB, 1, 1)]), m.Outcomes(JOB, "", [m.OutcomeFrame(0, 1, 0, 0.1, 42, b"")])
    )
    scheduler, admin = bench.core.scheduler, Visibility(sees_all=True, owner="")
    state = FeedState(7, "east", 0.0)
    state.update(bench.core.view(bench.now, {}), scheduler.task_log, scheduler.event_log, bench.now, [admin])
    message = state.message(None, admin)
    assert message is not None
    snapshot, example = msgspec.json.decode(message)["params"], EXAMPLES["snapshot"]
    for table in ("slaves", "jobs", "graphs"):
        (entity,), (described,) = snapshot.pop(table).values(), example.pop(table).values()
        assert shape(entity) == shape(described)
    assert len(snapshot["stream"]["marks"]) == 40
    assert shape(snapshot) == shape(example)


@pytest.mark.parametrize(
    ("cost_s", "busy", "pause_s"),
    [
        (0.0, 0.0, 0.25),
        (0.005, 0.0, 0.25),
        (0.02, 0.0, 1.0),
        (9.0, 0.0, 2.0),
        (0.001, 0.4, 0.25),
        (0.004, 0.4, 0.4),
        (0.001, 0.15, 0.001 / 0.025 / 0.15),
        (0.005, 0.15, 0.5),
        (0.02, 0.9, 1.0),
    ],
)
def test_ticks_are_rarer_when_they_cost_more(cost_s: float, busy: float, pause_s: float) -> None:
    assert pause_after(cost_s, busy) == pytest.approx(pause_s)


def test_the_watch_of_the_protocol_is_accepted() -> None:
    assert msgspec.convert(EXAMPLES["watch"], WatchParams).since == (1790000000000, 41)
