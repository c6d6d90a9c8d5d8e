"""Slaves on the hosts of another engine: who gets which, and what these hosts must have in common with us."""

import re
import sys

import cloudpickle
import pytest

import concurrent_nb
from concurrent_nb.nodes.launchers.launcher import LaunchedSlave, LaunchState
from concurrent_nb.nodes.launchers.pilot_hosts import FACTS, PilotHost, PilotSlaves, differences

SMALL = PilotHost("a", "host a", 2)
LARGE = PilotHost("b", "host b", 8)


def placed(slaves: PilotSlaves, *hosts: PilotHost) -> list[tuple[str, str]]:
    return [(start.name, start.host.key) for start in slaves.place(hosts)]


def test_slaves_get_the_hosts_in_order_those_with_most_cores_first() -> None:
    slaves = PilotSlaves("Dask")
    for name in ("one", "two", "three"):
        slaves.launch(name)
    assert placed(slaves, SMALL, LARGE) == [("one", "b"), ("two", "a")]
    assert [(each.state, each.place) for each in slaves.slaves()] == [
        (LaunchState.STARTING, "host b"),
        (LaunchState.STARTING, "host a"),
        (LaunchState.QUEUED, "Dask: no host is free"),
    ]
    assert placed(slaves, SMALL, LARGE) == []


def test_idle_hosts_come_first() -> None:
    slaves = PilotSlaves("Dask")
    slaves.launch("one")
    assert placed(slaves, PilotHost("b", "host b", 8, is_busy=True), SMALL) == [("one", "a")]


def test_a_waiting_slave_gets_the_host_of_one_that_has_ended() -> None:
    slaves = PilotSlaves("Dask")
    slaves.launch("one")
    slaves.launch("two")
    assert placed(slaves, SMALL) == [("one", "a")]
    slaves.runs("one")
    slaves.ended(LaunchedSlave("one", LaunchState.ENDED, "", "it died"))
    assert slaves.slaves()[0] == LaunchedSlave("one", LaunchState.ENDED, "host a", "it died")
    assert placed(slaves, SMALL) == [("two", "a")]
    slaves.runs("one")
    assert slaves.slaves()[0].state is LaunchState.ENDED


def test_a_forgotten_slave_must_be_ended_only_if_it_has_begun() -> None:
    slaves = PilotSlaves("Dask")
    for name in ("runs", "waits", "has ended"):
        slaves.launch(name)
    assert len(placed(slaves, SMALL, LARGE)) == 2
    assert slaves.forget(["runs", "has ended", "waits", "unknown"]) == ["runs", "waits"]
    assert slaves.slaves() == []


def test_a_waiting_slave_says_why() -> None:
    slaves = PilotSlaves("Ray")
    slaves.launch("one")
    slaves.explain("it has no host yet")
    assert slaves.slaves()[0].place == "Ray: it has no host yet"


def test_the_facts_of_this_process_are_right() -> None:
    facts = eval(FACTS)
    assert facts["python"] == f"{sys.version_info.major}.{sys.version_info.minor}"
    assert facts["executable"] == sys.executable
    assert facts["concurrent-nb"] == concurrent_nb.__version__
    assert facts["cloudpickle"] == cloudpickle.__version__
    assert differences(facts, facts) == ""


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"python": "3.9"}, "has Python 3.9 .*use Python 3.9 here"),
        ({"concurrent-nb": ""}, "has no concurrent_nb: run `/x/python -m pip install concurrent-nb==1.2.3` there"),
        ({"concurrent-nb": "1.2.4"}, "it has concurrent-nb 1.2.4 and this process 1.2.3: run"),
        ({"cloudpickle": ""}, r"it has cloudpickle \(none\) and this process 3.1.1"),
        ({"cloudpickle": "2.9"}, "install cloudpickle==3.1.1"),
        ({"posix": False}, "Linux or macOS"),
    ],
)
def test_what_differs_is_named_with_its_remedy(change: dict[str, object], words: str) -> None:
    here = {
        "python": "3.11",
        "executable": "/x/python",
        "posix": True,
        "concurrent-nb": "1.2.3",
        "cloudpickle": "3.1.1",
    }
    assert re.search(words, differences(here, {**here, **change}))
    assert not differences(here, {**here, "cloudpickle": "3.9"})
