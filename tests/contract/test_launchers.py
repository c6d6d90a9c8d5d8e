"""The promises of launchers, on this machine: local slaves, and slaves that commands start."""

import os
import re
import resource
import sys
import time
from pathlib import Path
from typing import Any

import psutil
import pytest

from concurrent_nb import Cluster
from concurrent_nb.errors import ConfigurationError, InitializerFailed, LaunchFailed
from concurrent_nb.nodes.launchers import launched_slaves, supervisor
from concurrent_nb.nodes.launchers.catalogue import choose_launcher, make_launcher
from tests import work
from tests.clusters import BRISK, eventually
from tests.feeds import following
from tests.launcher_contract import check_launcher, kill_here, slaves_of
from tests.launcher_recipes import RECIPES, calls_of, make_stand_ins, options_of
from tests.work import PATIENCE_S

#: commands whose slaves are here
HERE: dict[str, Any] = {"listen": ["127.0.0.1"]}
WITH_INPUT = "command:{python} -P -m concurrent_nb slave --connect - --name {name}"
#: a batch system of one line: it returns at once, and prints an id
SUBMITTED = "command:sh {script}"
SUBMIT_SCRIPT = "nohup {slave} </dev/null >/dev/null 2>&1 &\necho submitted\necho $!\n"


def set_global() -> None:
    work.known = "by the initializer"  # type: ignore[attr-defined]


def read_global() -> str:
    return str(work.known)  # type: ignore[attr-defined]


def test_local_slaves() -> None:
    check_launcher("local", "this machine")


def test_commands_with_a_standard_input() -> None:
    """They get the initializer on it, too."""
    with Cluster(on=WITH_INPUT, workers=1, initializer=set_global, **HERE) as cluster:
        assert cluster.application().submit(read_global).result() == "by the initializer"
        (slave,) = slaves_of(cluster).values()
        assert slave["place"] == Path(sys.executable).name


def test_commands_that_submit() -> None:
    """The slave's process is not the command's; a slave that is killed is missed by the master alone."""
    options = {**HERE, "submits": True, "script": SUBMIT_SCRIPT, "end_command": "kill -9 {job}"}
    with Cluster(on=SUBMITTED, slaves=2, workers=1, config=BRISK, **options) as cluster:
        eventually(lambda: len(slaves_of(cluster)) == 2, "both have joined")
        slaves = slaves_of(cluster)
        assert {slave["place"] for slave in slaves.values()} == {f"sh {slave['pid']}" for slave in slaves.values()}
        assert cluster.application().submit(pow, 2, 10).result() == 1024
        cluster.scale(slaves=1)
        eventually(lambda: len(slaves_of(cluster)) == 1, "one has left")
    # A killed slave has no time to end its workers, which notice it themselves.


@pytest.mark.parametrize(("system", "on", "others"), RECIPES, ids=[system for system, _, _ in RECIPES])
def test_recipes_of_batch_systems_start_and_end_slaves(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, system: str, on: str, others: str
) -> None:
    """As far as that shows without the systems: stand-ins for their commands run the slaves here."""
    make_stand_ins(tmp_path)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=os.pathsep)
    options = options_of(on, others)
    with Cluster(on=on, workers=1, config=BRISK, **HERE, **options) as cluster:
        assert cluster.wait_for_slave(PATIENCE_S)
        assert cluster.application().submit(pow, 2, 10).result(PATIENCE_S) == 1024
        ((name, slave),) = slaves_of(cluster).items()
    started, *ended = calls_of(tmp_path)
    assert name in started
    assert bool(ended) == ("end_command" in options)
    eventually(lambda: not psutil.pid_exists(slave["pid"]), "the slave has ended")


@pytest.mark.parametrize(
    ("on", "options", "message"),
    [
        ("command:", {}, "needs a command"),
        ("command:run {nmae}", {}, "names in braces are python, name"),
        ("command:run 'x", {}, "is no command"),
        ("command:no-such-command {slave}", {}, "no command 'no-such-command'"),
        ("command:true", {"submits": True}, r"must contain \{slave\}"),
        ("command:true", {"end_command": "{jb}"}, "names in braces"),
        ("local:here", {}, "local slaves have no place"),
        ("local", {"nonsense": 1}, "Local has no item 'nonsense'"),
        ("locla", {}, "there are local, ssh, command"),
    ],
)
def test_what_is_wrong_is_said(on: str, options: dict[str, Any], message: str) -> None:
    with pytest.raises((ConfigurationError, LaunchFailed), match=message):
        make_launcher(choose_launcher(on), options).check()


def test_a_cluster_whose_launcher_is_wrong_does_not_start() -> None:
    with pytest.raises(LaunchFailed, match="no command 'no-such-command'"):
        Cluster(on="command:no-such-command {slave}").start()


@pytest.mark.parametrize(
    "arguments", [{"slaves": 0}, {"slaves": True}, {"adapt": (3, 1)}, {"adapt": (0, 0)}, {"on": ""}, {"on": ":x"}]
)
def test_wrong_arguments(arguments: dict[str, Any]) -> None:
    with pytest.raises(ConfigurationError):
        Cluster(**arguments)


def test_options_need_a_launcher() -> None:
    with pytest.raises(TypeError, match="no argument 'partition'; options of a launcher need on="):
        Cluster(partition="short")


def test_a_command_that_fails_is_given_up_with_the_end_of_its_log(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(supervisor, "PAUSES_S", (0.0,))
    on = "command:sh -c 'echo the queue is closed >&2; exit 7'"
    with Cluster(on=on, **HERE) as cluster:
        future = cluster.application().submit(pow, 2, 10)
        with pytest.raises(
            LaunchFailed, match=r"in a row have failed; .*exit code 7; its log ends:\nthe queue is closed"
        ):
            cluster.wait_for_slave(PATIENCE_S)
        with pytest.raises(LaunchFailed):
            future.result(PATIENCE_S)


def test_slaves_that_wait_in_a_queue_are_told(monkeypatch: pytest.MonkeyPatch) -> None:
    """A batch system has taken them, and does not begin."""
    monkeypatch.setattr(launched_slaves, "QUEUED_S", 0.0)
    options = {**HERE, "submits": True, "script": "echo 17 # {slave}"}
    with Cluster(on=SUBMITTED, slaves=2, workers=1, **options) as cluster:
        eventually(lambda: cluster.queued() == ["sh 17"] * 2, "they are queued")
        waiting = cluster.status()["launched"]
        assert [(each["state"], each["place"]) for each in waiting] == [("queued", "sh 17")] * 2
        assert all(re.fullmatch(r"command-[0-9a-f]{6}-[12]", each["name"]) for each in waiting)
        assert cluster.connection_file is not None
        with following(cluster.connection_file) as feed:
            feed.eventually(lambda state: len(state["slaves"]) == 2, "those who watch see them, too")
            shown = [(each["state"], each["place"]) for each in feed.state["slaves"].values()]
            assert shown == [("queued", "sh 17")] * 2


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="the limit of open files is Linux's")
def test_a_cluster_without_a_free_descriptor_waits_for_one(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(supervisor, "SHORTAGE_PAUSES_S", (0.1,))
    monkeypatch.setattr(supervisor, "FAILURES_MAX", 2)
    with Cluster(on="local", slaves=1, workers=1, config=BRISK) as cluster:
        application = cluster.application()
        assert application.submit(pow, 2, 3).result(PATIENCE_S) == 8
        (slave,) = slaves_of(cluster).values()
        limits = resource.getrlimit(resource.RLIMIT_NOFILE)
        free = min(a_free_descriptor() for _ in range(200))  # threads of the cluster open files for moments
        resource.setrlimit(resource.RLIMIT_NOFILE, (free, limits[1]))
        try:
            kill_here(slave)
            future = application.submit(pow, 2, 10)
            eventually(lambda: caplog.text.count("ulimit -n") > supervisor.FAILURES_MAX, "it is said what is short")
        finally:
            resource.setrlimit(resource.RLIMIT_NOFILE, limits)
        assert future.result(PATIENCE_S) == 1024


def a_free_descriptor() -> int:
    time.sleep(0.005)
    os.close(free := os.open(os.devnull, os.O_RDONLY))
    return free


def test_workers_in_a_template_need_a_number() -> None:
    with Cluster(on="command:echo {workers}", **HERE) as cluster, pytest.raises(LaunchFailed, match="--workers N"):
        cluster.wait_for_slave(PATIENCE_S)


def test_a_slave_that_refuses_its_configuration_is_not_started_again() -> None:
    config = {"SlaveNode": {"grace_s": "long"}}
    began = time.monotonic()
    with Cluster(on="local", config=config) as cluster, pytest.raises(LaunchFailed, match=r"SlaveNode\.grace_s"):
        cluster.wait_for_slave(PATIENCE_S)
    assert time.monotonic() - began < PATIENCE_S


def fail() -> None:
    raise RuntimeError("no model here")


def test_an_initializer_that_fails() -> None:
    with Cluster(on="local", workers=1, initializer=fail) as cluster:
        future = cluster.application().submit(pow, 2, 10)
        with pytest.raises(InitializerFailed, match="no model here"):
            future.result(PATIENCE_S)


def test_slaves_follow_the_queue(tmp_path: Path) -> None:
    flag = tmp_path / "flag"
    with Cluster(on="local", adapt=(0, 2), workers=1, config=BRISK) as cluster:
        app = cluster.application()
        assert cluster.wait_for_slave(PATIENCE_S)  # none is wanted
        assert not slaves_of(cluster)
        cluster.adapt(0, 2, wait_s=0.5)
        futures = [app.submit(work.wait_for, flag) for _ in range(3)]
        eventually(lambda: len(slaves_of(cluster)) == 2, "tasks that wait have slaves started")
        flag.touch()
        assert [future.result() for future in futures] == [flag] * 3
        eventually(lambda: not slaves_of(cluster), "idle slaves leave")
        assert app.submit(pow, 2, 10).result() == 1024  # and one comes back
