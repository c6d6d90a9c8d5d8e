"""Traces are valid: whatever the tasks were like, viewers can draw each of their events."""

from collections import defaultdict
from typing import Any

import pytest

from concurrent_nb.outcome import Status
from concurrent_nb.telemetry import trace_format
from concurrent_nb.telemetry.trace_format import ARROWS_MAX, JOB_ROWS_MAX, TraceEvent, TraceEvents
from tests.traces import check_trace, rows_of, slices_of_tasks

JOB = "ab" * 16


def task(number: int = 0, **more: Any) -> dict[str, Any]:
    """Return a task of a tenth of a second, the tenth part of a second after the one before it."""
    began = 100.0 + number * 0.1
    record = {"number": number, "job": JOB, "index": number, "attempt": 1, "status": Status.OK, "function": "square"}
    record |= {"slave": "east", "worker": 42, "accepted_s": 99.0, "assigned_s": 99.5, "started_s": began}
    record |= {"finished_s": began + 0.09, "ended_s": began + 0.095}
    return record | {"cpu_s": 0.05, "peak_bytes": 1 << 20, "in_bytes": 10, "out_bytes": 20, "in_thread": False} | more


def traced(*tasks: dict[str, Any], jobs: dict[str, Any] | None = None) -> list[TraceEvent]:
    events = TraceEvents("lab", "host-1", 7)
    page = {"tasks": tasks, "jobs": {JOB: {"name": "squares", "application": "notebook"}} if jobs is None else jobs}
    found = [*events.add(page), *events.close()]
    check_trace(found)
    return found


def phases(events: list[TraceEvent]) -> dict[str, int]:
    counts: defaultdict[str, int] = defaultdict(int)
    for event in events:
        counts[event["ph"]] += 1
    return dict(counts)


def test_a_task_is_a_slice_of_its_worker_with_what_is_known_of_it() -> None:
    events = traced(task())
    (found,) = slices_of_tasks(events)
    assert rows_of(events)[found["pid"], found["tid"]] == ("slave east", "worker 42")
    assert (found["name"], found["ts"], found["dur"]) == ("square", 100_000_000.0, 90_000.0)
    assert found["args"] == {
        "task": "abababab/0",
        "attempt": 1,
        "status": "ok",
        "waited_s": 1.0,
        "run_s": 0.09,
        "cpu_s": 0.05,
        "peak_bytes": 1 << 20,
        "in_bytes": 10,
        "out_bytes": 20,
    }


def test_an_arrow_goes_from_the_job_to_the_worker_and_back() -> None:
    events = traced(task())
    rows = rows_of(events)
    stops = [(event["ph"], rows[event["pid"], event["tid"]]) for event in events if event.get("cat") == "flow"]
    job = ("application notebook", "squares (abababab)")
    assert stops == [
        ("s", job),
        ("t", ("master of lab (host-1, process 7)", "to east")),
        ("t", ("slave east", "tasks in")),
        ("t", ("slave east", "worker 42")),
        ("t", ("slave east", "results out")),
        ("t", ("master of lab (host-1, process 7)", "from east")),
        ("f", job),
    ]


def test_what_a_function_needs_is_in_its_tasks_and_the_graph_in_its_job() -> None:
    label = {"name": "fits", "application": "notebook"}
    linked = {**label, "graph": [["load", "clean", 10], ["clean", "clean", 3]], "needs": {"clean": ["load", "clean"]}}
    tasks = [task(0, function="load"), task(1, function="clean"), task(2, function="clean", job="cd" * 16)]
    jobs = {JOB: linked, "cd" * 16: {**label, "graph": [["load", "clean", 5]], "needs": {"clean": ["load"]}}}
    events = TraceEvents("lab")
    found = [*events.add({"tasks": tasks, "jobs": jobs}), *events.close()]
    check_trace(found)
    needs = [each["args"].get("function_needs") for each in slices_of_tasks(found)]
    assert needs == [None, "load, clean", "load"]
    graphs = [event["args"]["graph"] for event in found if event.get("cat") == "job"]
    assert graphs == [{"load -> clean": 10, "clean -> clean": 3}, {"load -> clean": 5}]
    assert events.graph == {"load -> clean": 15, "clean -> clean": 3}


def test_every_node_is_a_process() -> None:
    events = traced(task(0), task(1, slave="west", worker=42), task(2, worker=43))
    names = {event["args"]["name"] for event in events if event["name"] == "process_name"}
    assert names == {"application notebook", "master of lab (host-1, process 7)", "slave east", "slave west"}
    workers = {row for row in rows_of(events).values() if row[1].startswith("worker")}
    assert workers == {("slave east", "worker 42"), ("slave east", "worker 43"), ("slave west", "worker 42")}


def test_tasks_that_came_together_share_the_marks_of_their_messages() -> None:
    events = traced(*(task(number) for number in range(50)))
    marks = [event for event in events if event.get("cat") == "message" and event["name"] == "assign"]
    assert len(marks) == 1
    assert len(slices_of_tasks(events)) == 50


def test_tasks_in_threads_have_rows_beside_each_other() -> None:
    together = [
        task(number, started_s=100.0, finished_s=100.5 + number, ended_s=102.6, in_thread=True) for number in range(3)
    ]
    events = traced(*together)
    rows = rows_of(events)
    assert [rows[each["pid"], each["tid"]][1] for each in slices_of_tasks(events)] == [
        "worker 42",
        "worker 42 (2)",
        "worker 42 (3)",
    ]


def test_a_slight_overlap_is_the_networks_fault() -> None:
    events = traced(task(0, finished_s=100.15, ended_s=100.151), task(1, ended_s=100.4))
    first, second = slices_of_tasks(events)
    assert first["tid"] == second["tid"]
    assert second["ts"] == first["ts"] + first["dur"]
    assert second["dur"] == 90_000.0


def test_a_task_is_never_drawn_after_the_master_had_its_result() -> None:
    events = traced(task(0, finished_s=100.15, ended_s=100.151), task(1, finished_s=100.19, ended_s=100.191))
    _, second = slices_of_tasks(events)
    assert second["ts"] + second["dur"] == 100_191_000.0


def test_a_failed_task_is_marked() -> None:
    (found,) = slices_of_tasks(traced(task(status=Status.ERROR)))
    assert found["cat"] == "task,failed"
    assert found["args"]["status"] == "error"


def test_a_task_that_ran_nowhere_is_a_moment_of_the_master() -> None:
    events = traced(task(slave="", worker=0, attempt=0, status=Status.CANCELLED))
    (moment,) = [event for event in events if event["ph"] == "i"]
    assert rows_of(events)[moment["pid"], moment["tid"]][1] == "ended without a slave"
    assert slices_of_tasks(events) == []
    assert "s" not in phases(events)


def test_a_task_that_no_worker_had_is_on_its_slave() -> None:
    events = traced(task(worker=0, status=Status.POISON, started_s=100.0, finished_s=100.0))
    (found,) = slices_of_tasks(events)
    assert rows_of(events)[found["pid"], found["tid"]] == ("slave east", "in no worker")


def test_a_job_whose_application_has_left_or_is_unknown() -> None:
    assert "application (left)" in {process for process, _ in rows_of(traced(task(), jobs={})).values()}


def test_a_trace_without_tasks_is_valid() -> None:
    assert traced() == []


def test_names_are_data() -> None:
    nasty = '"},{<script>\x1b[31m\u202e\n'
    events = traced(task(function=nasty, slave=nasty), jobs={JOB: {"name": nasty, "application": nasty}})
    assert slices_of_tasks(events)[0]["name"] == nasty


def test_many_tasks_have_arrows_up_to_a_number(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(trace_format, "ARROWS_MAX", 10)
    events = traced(*(task(number) for number in range(20)))
    assert len(slices_of_tasks(events)) == 20
    assert phases(events)["s"] == phases(events)["f"] == 10
    assert ARROWS_MAX >= 1000


def test_many_jobs_have_rows_up_to_a_number() -> None:
    tasks = [task(number, job=f"{number:032x}") for number in range(JOB_ROWS_MAX + 50)]
    jobs = {each["job"]: {"name": f"job {each['number']}", "application": "notebook"} for each in tasks}
    events = traced(*tasks, jobs=jobs)
    assert sum(event.get("cat") == "job" for event in events) == JOB_ROWS_MAX
    assert len(slices_of_tasks(events)) == len(tasks)


def test_the_memory_of_marks_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(trace_format, "_MARKS", 8)
    traced(*(task(number, assigned_s=99.5 + number / 1000) for number in range(100)))
