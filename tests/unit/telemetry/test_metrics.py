"""Metrics are what Prometheus' own parser reads, and say what the status says."""

from typing import Any

import pytest
from prometheus_client.parser import text_string_to_metric_families

from concurrent_nb.outcome import Status
from concurrent_nb.tasks.task_log import Used
from concurrent_nb.telemetry.metrics import SLAVES_MAX, metrics_text
from concurrent_nb.telemetry.task_totals import TaskTotals


def slave(name: str, **more: Any) -> dict[str, Any]:
    found = {"name": name, "slots": 4, "busy": 3, "in_flight": 5, "done": 70, "load": 1.5}
    return found | {"memory_used_bytes": 100, "memory_total_bytes": 200} | more


def status(*slaves: dict[str, Any], **more: Any) -> dict[str, Any]:
    found = {"name": "lab", "uptime_s": 12.5, "slaves": slaves, "clients": [{}, {}], "more_clients": 3}
    return found | {"tasks": {"jobs": 9, "waiting": 4, "assigned": 5, "kept": 6}} | more


def parsed(text: bytes) -> dict[tuple[str, tuple[tuple[str, str], ...]], float]:
    """Return each sample by name and labels. Fails if there are two with the same."""
    found = {}
    for family in text_string_to_metric_families(text.decode()):
        assert family.documentation
        for sample in family.samples:
            key = sample.name, tuple(sorted(sample.labels.items()))
            assert key not in found
            found[key] = sample.value
    return found


def test_a_parser_reads_what_the_status_has() -> None:
    totals = TaskTotals()
    totals.add(0, [Used(Status.OK, 0.5, 0.25, 10, 20), Used(Status.ERROR, 0.002, 0.0, 1, 2)])
    found = parsed(metrics_text(status(slave("east"), slave("west", load=None)), totals))
    expected: dict[tuple[str, tuple[tuple[str, str], ...]], float] = {
        ("concurrent_nb_info", (("cluster", "lab"),)): 1,
        ("concurrent_nb_uptime_seconds", ()): 12.5,
        ("concurrent_nb_slaves", ()): 2,
        ("concurrent_nb_applications", ()): 5,
        ("concurrent_nb_jobs", ()): 9,
        ("concurrent_nb_tasks", (("state", "waiting"),)): 4,
        ("concurrent_nb_tasks_ended_total", (("status", "ok"),)): 1,
        ("concurrent_nb_tasks_ended_total", (("status", "error"),)): 1,
        ("concurrent_nb_tasks_ended_total", (("status", "timeout"),)): 0,
        ("concurrent_nb_task_run_seconds_sum", ()): 0.502,
        ("concurrent_nb_task_run_seconds_bucket", (("le", "0.01"),)): 1,
        ("concurrent_nb_task_run_seconds_bucket", (("le", "+Inf"),)): 2,
        ("concurrent_nb_task_run_seconds_count", ()): 2,
        ("concurrent_nb_task_cpu_seconds_total", ()): 0.25,
        ("concurrent_nb_task_argument_bytes_total", ()): 11,
        ("concurrent_nb_task_result_bytes_total", ()): 22,
        ("concurrent_nb_slave_slots_busy", (("slave", "east"),)): 3,
        ("concurrent_nb_slave_outcomes_total", (("slave", "west"),)): 70,
        ("concurrent_nb_slave_load1", (("slave", "east"),)): 1.5,
    }
    assert {key: found.get(key) for key in expected} == expected
    assert ("concurrent_nb_slave_load1", (("slave", "west"),)) not in found
    assert found["process_cpu_seconds_total", ()] > 0


def test_names_may_be_anything() -> None:
    nasty = 'a"b\\c\n# HELP x{y="z"} 1 <script>'
    found = parsed(metrics_text(status(slave(nasty), name="l\u00e4b"), TaskTotals()))
    assert found["concurrent_nb_slave_slots", (("slave", nasty),)] == 4


def test_labels_have_a_limit() -> None:
    found = parsed(metrics_text(status(*(slave(f"slave-{n}") for n in range(SLAVES_MAX + 100))), TaskTotals()))
    assert sum(name == "concurrent_nb_slave_slots" for name, _ in found) == SLAVES_MAX
    assert {label for _, labels in found for label, _ in labels} == {"cluster", "state", "status", "le", "slave"}


@pytest.mark.parametrize("first", [0, 7])
def test_records_that_were_missed_are_counted(first: int) -> None:
    totals = TaskTotals()
    totals.add(first, [Used(Status.OK, 1.0, 0.0, 0, 0)] * 3)
    assert (totals.missed, totals.following) == (first, first + 3)
    totals.add(first + 3, [])
    assert totals.as_json()["missed"] == first
    assert totals.as_json()["ended"]["ok"] == 3
