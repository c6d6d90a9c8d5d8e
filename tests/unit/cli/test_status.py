"""The status of a cluster in lines for people, and the options of the command line."""

from typing import Any

import pytest

from concurrent_nb.cli.daemon import without
from concurrent_nb.cli.status import describe, write_span


@pytest.mark.parametrize(
    ("seconds", "written"),
    [
        (0.0, "0 s"),
        (0.9, "0 s"),
        (59.9, "59 s"),
        (60, "1 min"),
        (61, "1 min 1 s"),
        (3600, "1 h"),
        (3605, "1 h"),
        (4300, "1 h 11 min"),
        (86_400 * 3 + 7200, "3 d 2 h"),
    ],
)
def test_time_spans_have_two_units_at_most(seconds: float, written: str) -> None:
    assert write_span(seconds) == written


def slave(**more: Any) -> dict[str, Any]:
    answer = {"name": "east", "host": "host-7", "cores": 8, "state": "active", "slots": 8, "busy": 8, "in_flight": 12}
    answer |= {"done": 40, "load": 1.5, "memory_used_bytes": 3 << 30, "memory_total_bytes": 8 << 30, "uptime_s": 61.0}
    return answer | more


GRAPH = {
    "client": "fit.ipynb",
    "functions": [["load", 10, 0, 0, 0, 10, 0, 0], ["clean", 10, 3, 1, 2, 4, 0, 0]],
    "edges": [[0, 1, 10]],
}


def test_a_graph_is_a_line() -> None:
    lines = describe(status(graphs=[GRAPH, {**GRAPH, "client": None}]))[3:]
    assert lines == [
        "  graph of fit.ipynb: load 10/10 -> clean 4/10 (2 running)",
        "  graph: load 10/10 -> clean 4/10 (2 running)",
    ]


def status(**more: Any) -> dict[str, Any]:
    answer = {"name": "lab", "host": "host-1", "pid": 42, "uptime_s": 4300.0, "slaves": [slave()], "clients": []}
    return answer | {"jobs": [], "other_jobs": 0, "suspects": [], "tasks": {"waiting": 1}} | more


def test_slaves_and_master() -> None:
    assert describe(status()) == [
        "cluster lab: 1 slave, 8 workers, 8 busy; 1 task waits",
        "  master on host-1: process 42, up 1 h 11 min",
        "  slave east on host-7, 8 cores: active, 8 workers, 8 busy and 4 tasks next, 40 done, load 1.5, "
        "memory 3.0 GiB of 8.0 GiB, up 1 min 1 s",
    ]


def test_a_slave_that_has_reported_nothing_yet() -> None:
    silent = slave(host="", cores=0, load=None, memory_used_bytes=None, memory_total_bytes=None, state="joining")
    answer = describe(status(slaves=[silent | {"busy": 0, "in_flight": 0, "slots": 1, "done": 0}]))
    assert answer[-1] == "  slave east: joining, 1 worker, 0 busy, 0 done, up 1 min 1 s"


def test_names_of_jobs_do_not_control_the_terminal() -> None:
    job = {
        "id": "26dcfdf6" * 4,
        "name": "\x1b[31m\u202e",
        "client": "notebook",
        "state": "running",
        "tasks": 1,
        "done": 0,
    }
    assert "job ?[31m? (26dcfdf6)" in describe(status(jobs=[job | {"untaken_bytes": 0, "age_s": 1.0}]))[-1]


def test_jobs_that_one_may_see_and_how_many_others_there_are() -> None:
    job = {"id": "26dcfdf6" * 4, "name": "fits", "client": "notebook", "state": "running", "tasks": 1000, "done": 999}
    job |= {"assigned": 1, "untaken_bytes": 0, "age_s": 10.0, "mine": True}
    answer = describe(status(jobs=[job, job | {"state": "idle"}, job | {"name": "", "client": None}], other_jobs=1))
    assert answer[3:] == [
        "  job fits (26dcfdf6) of notebook: running, 999 of 1,000 tasks done, 10 s old",
        "  job without a name (26dcfdf6) whose owner is disconnected: running, 999 of 1,000 tasks done, 10 s old",
        "  1 job of others",
    ]


def test_a_job_that_waits_for_its_owner_to_take_results() -> None:
    job = {"id": "26dcfdf6" * 4, "name": "fits", "client": "notebook", "state": "waiting", "tasks": 1000, "done": 999}
    job |= {"assigned": 1, "untaken_bytes": 70 << 20, "age_s": 10.0, "mine": True}
    (line,) = describe(status(jobs=[job]))[3:]
    assert line.endswith("10 s old; waits until its owner has received 70.0 MiB of results")


def test_a_suspect_s_history() -> None:
    suspect = {
        "task": "26dcfdf6/7",
        "state": "is on slave west, to run alone, because one of its deaths cost a slave",
        "deaths": ["slave east was lost (nothing was heard of it) while the task was there with 3 others"],
    }
    assert describe(status(suspects=[suspect]))[3:] == [
        "  task 26dcfdf6/7 is on slave west, to run alone, because one of its deaths cost a slave; "
        "its worker or its slave died 1 time:",
        "    1. slave east was lost (nothing was heard of it) while the task was there with 3 others",
    ]


@pytest.mark.parametrize(
    ("words", "left"),
    [
        (["start", "--daemon"], ["start"]),
        (["start", "--log", "a", "--name", "--daemon"], ["start", "--name"]),
        (["--daemon", "start", "--log=a", "--logs"], ["start", "--logs"]),
        (["start", "--log"], ["start"]),
    ],
)
def test_a_command_in_the_background_is_the_same_without_its_flag(words: list[str], left: list[str]) -> None:
    assert without(words, "--daemon", "--log") == left
