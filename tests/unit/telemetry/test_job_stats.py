"""What a job's and a cluster's statistics show, as text and as HTML."""

import json
from typing import Any

from concurrent_nb.telemetry.job_stats import (
    SHOWN_MAX,
    ClusterStats,
    JobStats,
    JobTimes,
    Share,
    job_stats_of,
)
from concurrent_nb.telemetry.statistic import Statistic

EVIL = '<script>alert(1)</script>\x1b[31m\u202e"'
TIMES = JobTimes(
    ended=4, waiting_s=1.0, shipping_s=1.0, running_s=6.0, fetching_s=2.0, busy_s=4.0, slot_s=32.0, idle_slot_s=16.0,
    in_bytes=30_000_000, out_bytes=2_000,
)  # fmt: skip


def stats() -> JobStats:
    return JobStats(
        "ab" * 16, "fits", 5, 1, 0, 3, 1, 0, 4.5, Statistic([1.0, 2.0, 3.0]), 2.5, 120_000_000,
        {"east": Share(4, 6.0)}, {"east/1": Share(1, 1.0), "east/2": Share(3, 5.0)}, {"rows": Statistic([10.0])}, TIMES,
    )  # fmt: skip


def test_times_come_from_the_masters_answer() -> None:
    answer = {name: getattr(TIMES, name) for name in JobTimes.__slots__}
    assert JobTimes.from_answer({**answer, "new in a later version": 1}) == TIMES
    assert JobTimes.from_answer({"waiting_s": "garbage"}) == JobTimes()
    assert (TIMES.slots, TIMES.idle_slots, JobTimes().slots, JobTimes().idle_slots) == (8.0, 4.0, 0.0, 0.0)


def test_shares_add_up() -> None:
    assert TIMES.shares() == {"waiting": 0.1, "shipping": 0.1, "running": 0.6, "fetching": 0.2}
    assert set(JobTimes().shares().values()) == {0.0}


def test_it_shows_where_the_time_went_and_what_to_do() -> None:
    text = repr(stats())
    lines = text.splitlines()
    assert lines[0] == "job fits: 5 tasks, 3 done, 1 failed, 1 waiting; 4.5 s"
    for part in ("30 MB", "2 kB", "120 MB", "10 %", "4 of 8", "rows", "east/2"):
        assert part in text
    assert [line.split()[0] for line in lines if " slot" in line and "%" in line] == ["waiting", "idle"]
    assert lines[-1] == "advice: 4 of 8 slots were idle on average: the job has 3 tasks, cut it into more"


def test_html_and_text_show_the_same_cells() -> None:
    shown = stats()
    html = shown._repr_html_()
    for line in repr(shown).splitlines():
        for cell in line.removeprefix("advice: ").split("  "):
            assert cell.strip().replace("'", "&#x27;") in html


def test_names_are_text_whatever_they_contain() -> None:
    shown = stats()
    shown.name, shown.values, shown.slaves = EVIL, {EVIL: Statistic([1.0])}, {EVIL: Share(1, 1.0)}
    assert "<script" not in shown._repr_html_()
    for text in (shown._repr_html_(), repr(shown)):
        assert "\x1b" not in text
        assert "\u202e" not in text
    cluster = ClusterStats({EVIL: {"slots": 1, "tasks": 1, "run_s": 1.0}}, values={EVIL: Statistic([1.0])})
    assert "<script" not in cluster._repr_html_()


def test_what_the_master_does_not_know_is_explained() -> None:
    shown = JobStats("ab" * 16, "", no_times="the master does not answer")
    assert repr(shown).startswith("job abababab: 0 tasks; 0 us")
    assert "is not known: the master does not answer" in repr(shown)
    assert "is not known: the master does not answer" in shown._repr_html_()


def test_thousands_of_workers_and_values_are_cut() -> None:
    shown = stats()
    shown.workers = {f"east/{number}": Share(1, number) for number in range(1000)}
    shown.values = {f"value {number}": Statistic([1.0]) for number in range(1000)}
    text = repr(shown)
    assert text.count(f"{1000 - SHOWN_MAX} more") == 2
    assert "east/999" in text
    assert "east/1 " not in text


def test_it_can_be_written_as_json() -> None:
    answer = json.loads(json.dumps(stats().as_dict()))
    assert answer["times"]["idle_slot_s"] == 16.0
    assert answer["run_time"]["count"] == 3
    assert answer["workers"]["east/2"] == {"tasks": 3, "run_s": 5.0}
    assert JobStats("", "").as_dict()["times"] is None


def test_the_command_line_fills_it_from_an_answer() -> None:
    run_time = json.loads(json.dumps(Statistic([1.0, 2.0]).as_dict()))
    answer = {
        "id": "ab" * 16, "name": "fits", "ended": 4, "failed": 1, "cancelled": 1, "unfinished": 2, "busy_s": 3.0,
        "sample": {"run_time": run_time, "slaves": {"east": [4, 6.0]}, "workers": {"east/1": [4, 6.0]}},
    }  # fmt: skip
    shown = job_stats_of(answer)
    assert (shown.tasks, shown.done, shown.failed, shown.cancelled, shown.waiting) == (6, 2, 1, 1, 2)
    assert (shown.run_time.count, shown.slaves["east"], shown.elapsed_s) == (2, Share(4, 6.0), 3.0)
    assert job_stats_of({**answer, "sample": None}).run_time.count == 0


def test_a_cluster_shows_slaves_and_jobs() -> None:
    job = {
        "id": "ab" * 16, "name": "", "ended": 3, "failed": 1, "running_s": 6.0, "in_bytes": 5, "out_bytes": 7,
    }  # fmt: skip
    slave = {"host": "h", "slots": 2, "tasks": 1, "run_s": 6.0, "uptime_s": 10.0}
    cluster = ClusterStats.from_answer(
        {"slaves": {"east": slave}, "jobs": [job], "tasks": 1, "slot_s": 20.0, "idle_slot_s": 5.0}
    )
    lines = repr(cluster).splitlines()
    assert lines[0] == "1 slave, 2 slots, 75 % used so far; 1 task ended"
    assert "abababab" in repr(cluster)
    assert "6 s of run time" in cluster._repr_html_()
    assert repr(ClusterStats()) == "0 slaves, 0 slots; 0 tasks ended"


def test_what_others_have_measured_is_shown_beside_the_own() -> None:
    answer: dict[str, Any] = {"slaves": {}, "jobs": [], "tasks": 1, "slot_s": 0.0, "idle_slot_s": 0.0}
    own = {"rows": Statistic([1.0, 2.0])}
    same = {"rows": {"jobs": 1, **Statistic([1.0]).summary().as_dict()}}
    assert "of all these jobs" not in repr(ClusterStats.from_answer({**answer, "values": same}, own))
    more = {"rows": {**same["rows"], "jobs": 2, "count": 7, "p50": None}}
    cluster = ClusterStats.from_answer({**answer, "values": more}, own)
    assert "of this application" in repr(cluster) and "7 values  of 2 jobs" in repr(cluster)
    many = {EVIL: more["rows"], **{str(number): more["rows"] for number in range(50)}}
    shown = ClusterStats.from_answer({**answer, "values": many})
    assert "19 more" in repr(shown) and EVIL not in shown._repr_html_()
