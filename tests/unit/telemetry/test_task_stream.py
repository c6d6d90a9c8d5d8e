"""Marks of tasks: packed as the protocol describes, sampled evenly, numbered without gaps, bounded."""

import base64
from typing import Any

import pytest

from concurrent_nb.outcome import Status
from concurrent_nb.telemetry import task_stream
from concurrent_nb.telemetry.task_stream import DELTA_MARKS, MARK, TICK_MARKS
from tests.unit.telemetry.made_up_cluster import ADMIN, MadeUpCluster, Reader


def marks_of(delta: dict[str, Any]) -> list[tuple[Any, ...]]:
    return list(MARK.iter_unpack(base64.b64decode(delta["stream"]["marks"])))


def watched() -> tuple[MadeUpCluster, Reader]:
    cluster, reader = MadeUpCluster(), Reader(ADMIN)
    cluster.job(1, "alice")
    cluster.tick()
    cluster.read(reader)
    return cluster, reader


def test_a_mark_has_lane_function_status_start_run_wait_and_way() -> None:
    cluster, reader = watched()
    cluster.now = 100.0
    cluster.task(1, slave="east", worker=42, elapsed_s=1.0, took_s=2.0, ago_us=500_000)
    cluster.task(1, slave="west", worker=43, function="cube", status=Status.ERROR)
    cluster.tick()
    delta = cluster.read(reader)
    assert (delta["stream"]["lanes"], delta["stream"]["functions"]) == (["east/42", "west/43"], ["square", "cube"])
    # It ended at 100, accepted 4 s and assigned 2 s before; half a second before it had run for 1 s.
    assert marks_of(delta) == [(0, 0, 0, 98.5, 1.0, 2.5, 0.5), (1, 1, 2, 98.5, 1.0, 2.5, 0.5)]


@pytest.mark.parametrize("elapsed_s", [float("nan"), float("inf"), -float("inf"), -1.0, 1e300])
@pytest.mark.parametrize("ago_us", [0, 10**12, -(10**12)])
def test_a_slave_cannot_report_a_run_outside_the_time_that_it_had_the_task(elapsed_s: float, ago_us: int) -> None:
    cluster, reader = watched()
    cluster.now = 100.0
    cluster.task(1, elapsed_s=elapsed_s, ago_us=ago_us)
    cluster.tick()
    ((_, _, _, started_s, run_s, waited_s, shipped_s),) = marks_of(cluster.read(reader))
    assert 98.0 <= started_s <= started_s + run_s <= 100.0
    assert waited_s == started_s - 96.0
    assert shipped_s == started_s - 98.0


@pytest.mark.parametrize("count", [1, 499, 500, 501, 999, 1001, 25_000])
def test_a_delta_is_an_even_sample_of_the_tasks_since_then(count: int) -> None:
    cluster, reader = watched()
    for number in range(count):
        cluster.task(1, worker=1 + number % 3)
    cluster.tick()
    delta = cluster.read(reader)
    marks = marks_of(delta)
    assert TICK_MARKS / 2 < len(marks) <= TICK_MARKS or len(marks) == count
    assert (delta["stream"]["first"], delta["stream"]["skipped"]) == (0, count - len(marks))
    assert {mark[0] for mark in marks} <= {0, 1, 2}


def test_numbers_have_no_gaps_whatever_the_pace() -> None:
    cluster = MadeUpCluster()
    cluster.job(1, "alice")
    readers = [Reader(ADMIN) for _ in range(3)]
    cluster.tick()
    following = [0, 0, 0]
    for tick in range(30):
        for _ in range(500 * (tick % 7)):
            cluster.task(1)
        cluster.tick()
        for number, reader in enumerate(readers):
            if tick % (1 + 3 * number) == 0 and (delta := cluster.read(reader)) and "stream" in delta:
                stream = delta["stream"]
                count = len(stream["marks"]) * 3 // 4 // MARK.size
                if reader.kinds[-1] == "delta":
                    assert stream["first"] == following[number]
                    assert count <= DELTA_MARKS
                following[number] = stream["first"] + count + stream["skipped"]
                assert following[number] == len(cluster.log)


def test_a_snapshot_has_the_last_marks_and_not_more_than_ten_thousand() -> None:
    cluster, _ = watched()
    for _ in range(22):
        for _ in range(1500):
            cluster.task(1)
        cluster.tick()
        stream = cluster.fresh(ADMIN)["stream"]
        count = len(stream["marks"]) // MARK.size
        assert count == min(len(cluster.log) // 3, 10_000)
        assert stream["first"] + count + stream["skipped"] == len(cluster.log)


def test_tables_begin_anew_when_they_are_large_and_readers_get_a_snapshot(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(task_stream, "TABLE_MAX", 10)
    cluster, reader = watched()
    for round_number in range(4):
        for worker in range(6):
            cluster.task(1, worker=100 * round_number + worker)
        cluster.tick()
        cluster.read(reader)
        assert reader.state["stream"] == cluster.fresh(ADMIN)["stream"]
        assert len(reader.state["stream"]["lanes"]) <= 16
    assert reader.kinds == ["snapshot", "delta", "delta", "snapshot", "delta"]


def test_lanes_are_sent_only_when_there_are_new_ones() -> None:
    cluster, reader = watched()
    for worker in (1, 1, 2):
        cluster.task(1, worker=worker)
        cluster.tick()
        delta = cluster.read(reader)
        assert ("lanes" in delta["stream"]) == (worker == 2 or reader.kinds == ["snapshot", "delta"])
    assert reader.state["stream"]["lanes"] == ["east/1", "east/2"]


def test_what_was_dropped_from_the_log_is_missing_and_nothing_breaks() -> None:
    cluster = MadeUpCluster(kept=2000)
    reader = Reader(ADMIN)
    cluster.job(1, "alice")
    cluster.tick()
    cluster.read(reader)
    for _ in range(10_000):
        cluster.task(1)
    cluster.tick()
    assert 0 < len(marks_of(cluster.read(reader))) <= 2000
