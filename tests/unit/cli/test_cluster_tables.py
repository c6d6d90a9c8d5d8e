"""Tables of slaves, jobs and settings, and the screen of `top`."""

from typing import Any

import pytest

from concurrent_nb.cli.cluster_commands import find_job
from concurrent_nb.cli.cluster_tables import config_table, job_table, slave_table, write_rate
from concurrent_nb.cli.table import Style
from concurrent_nb.cli.top import Rates, Reading, rates_between, top_lines
from concurrent_nb.errors import ConfigurationError
from tests.unit.cli.test_status import slave, status

ID = "26dcfdf6" * 4


def job(**more: Any) -> dict[str, Any]:
    found = {"id": ID, "name": "fits", "client": "notebook", "state": "running", "tasks": 1000, "done": 999}
    return found | {"assigned": 1, "untaken_bytes": 0, "age_s": 10.0, "mine": True} | more


def reading(at_s: float, done: int = 0, epoch: int = 1, **more: Any) -> Reading:
    totals = {"ended": {"ok": done, "hit": 0, "error": done // 10}, "missed": 0}
    totals |= {"cpu_s": done / 2, "in_bytes": done * 1024, "out_bytes": done * 2048}
    told = status(slaves=[slave(done=done)], jobs=[job(done=done)], epoch=epoch, more_jobs=0) | more
    return Reading(at_s, told, totals)


def test_slaves() -> None:
    silent = slave(name="west", host="", cores=0, load=None, memory_used_bytes=None, memory_total_bytes=None)
    assert slave_table([slave(), silent], Style()) == [
        "SLAVE  STATE   HOST    CORES  WORKERS  BUSY  NEXT  DONE  LOAD              MEMORY  UP",
        "east   active  host-7      8        8     8     4    40   1.5  3.0 GiB of 8.0 GiB  1 min 1 s",
        "west   active              ?        8     8     4    40     ?                   ?  1 min 1 s",
    ]


def test_jobs() -> None:
    assert job_table([job(), job(name="", client=None, state="waiting")], Style()) == [
        "ID        NAME  STATE    DONE  TASKS  ASSIGNED  APPLICATION     AGE",
        "26dcfdf6  fits  running   999  1,000         1  notebook        10 s",
        "26dcfdf6  -     waiting   999  1,000         1  (disconnected)  10 s",
    ]


def test_jobs_of_cells_and_detached_ones() -> None:
    of_cell = job(client=None, detached=True, notebook="work/fit.ipynb", line="fit(n)")
    assert job_table([of_cell, job()], Style()) == [
        "ID        NAME  STATE    DONE  TASKS  ASSIGNED  APPLICATION  AGE   NOTEBOOK        CELL",
        "26dcfdf6  fits  running   999  1,000         1  (detached)   10 s  work/fit.ipynb  fit(n)",
        "26dcfdf6  fits  running   999  1,000         1  notebook     10 s",
    ]


def test_settings() -> None:
    item = {"value": 5, "default": 3, "help": "Deaths.", "hot": True, "note": ""}
    fixed = {"value": ["::1", "127.0.0.1"], "default": [], "help": "Where.", "hot": False, "note": "it is bound"}
    told = {"MasterNode.deaths_allowed": item, "MasterNode.addresses": fixed}
    assert config_table(told, Style()) == [
        "SETTING                    VALUE           MAY CHANGE  WHAT IT IS",
        "MasterNode.deaths_allowed  5               yes         Deaths.",
        "MasterNode.addresses       ::1, 127.0.0.1  no          Where.",
    ]
    assert "raised only" in "".join(config_table({"a": item | {"note": "it can only be raised"}}, Style()))


# ----------------------------------------------------------------------------------------------------------------- top


def test_rates_are_differences_by_time() -> None:
    rates = rates_between(reading(10.0), reading(12.0, done=100))
    assert rates == Rates(55.0, 5.0, 51_200.0, 102_400.0, 25.0, {"east": 50.0}, {ID: 50.0})
    assert rates.as_json()["slaves"] == {"east": 50.0}


def test_there_are_no_rates_before_the_second_reading_and_of_another_master() -> None:
    assert rates_between(None, reading(1.0)) == Rates()
    assert rates_between(reading(1.0), reading(2.0, epoch=2)) == Rates()
    assert rates_between(reading(1.0), reading(1.0)) == Rates()


def test_what_is_new_has_no_rate_and_what_has_gone_is_not_missed() -> None:
    before = reading(1.0, slaves=[slave(name="gone")], jobs=[])
    rates = rates_between(before, reading(2.0, done=10))
    assert (rates.slaves, rates.jobs) == ({}, {})
    assert rates_between(reading(1.0, done=100), reading(2.0, done=50)).slaves == {"east": 0.0}


def test_the_screen() -> None:
    now = reading(12.0, done=100)
    lines = top_lines(now, rates_between(reading(10.0), now), Style())
    assert lines[:3] == [
        "cluster lab",
        "up 1 h 11 min, 8 of 8 workers busy, 1 tasks wait",
        "55.0 tasks/s, 25.0 cores used, 50.0 KiB/s of arguments, 100.0 KiB/s of results, 5.00/s failed or cancelled",
    ]
    assert lines[4].split()[:8] == ["SLAVE", "STATE", "HOST", "CORES", "WORKERS", "BUSY", "NEXT", "TASKS/S"]
    assert "50.0" in lines[5]
    assert lines[8].startswith("26dcfdf6  fits  running     50.0   100  1,000")
    assert top_lines(reading(1.0, other_jobs=2), Rates(), Style())[-1] == "and 2 more jobs"


@pytest.mark.parametrize("width", [30, 60, 80, 120])
def test_the_screen_fits(width: int) -> None:
    now = reading(12.0, done=100, name="a cluster with a long name " * 5)
    for line in top_lines(now, rates_between(reading(10.0), now), Style(width)):
        assert len(line) <= max(width, 52)


@pytest.mark.parametrize(
    ("per_s", "written"), [(None, "?"), (0.0, "0"), (0.126, "0.13"), (99.94, "99.9"), (1e6, "1,000,000")]
)
def test_rates_have_three_digits(per_s: float | None, written: str) -> None:
    assert write_rate(per_s) == written


# ---------------------------------------------------------------------------------------------------------- find a job

JOBS = [
    job(id="aa" * 16, name="one"),
    job(id="ab" * 16, name="two"),
    job(id="cd" * 16, name="two", state="idle"),
    job(id="ef" * 16, name="aa"),
]


@pytest.mark.parametrize(
    ("which", "found"), [("one", "aa"), ("ab", "ab"), ("two", "ab"), ("cd", "cd"), ("ef" * 16, "ef")]
)
def test_a_job_is_found_by_name_or_id(which: str, found: str) -> None:
    assert find_job(JOBS, which)["id"] == found * 16


@pytest.mark.parametrize(
    ("which", "says"), [("a", "2 jobs fit 'a'"), ("aa", "2 jobs fit"), ("x\x1b", "no job 'x?'"), ("", "no job")]
)
def test_no_job_and_several_are_refused(which: str, says: str) -> None:
    with pytest.raises(ConfigurationError) as refused:
        find_job(JOBS, which)
    assert says in str(refused.value)
