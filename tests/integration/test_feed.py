"""The live feed of a real master: what those who watch see, what others get, and what happens when something dies."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import concurrent_nb
from concurrent_nb import Cluster
from concurrent_nb.transport import connection_file
from concurrent_nb.transport.connection_file import ConnectionFile
from concurrent_nb.transport.control_client import ControlClient
from tests import fixtures, work
from tests.clusters import eventually, running, slave_pids
from tests.feeds import Follower, RawSocket, following

cluster = fixtures.shared_cluster()
app = fixtures.app
leaves_nothing_behind = fixtures.leaves_nothing_behind

ROOT = Path(__file__).parents[2]
EVIL_NAMES = [
    "<script>alert(1)</script><img src=x onerror=alert(1)>",
    "\x1b]0;owned\x07\x1b[31mred",
    "\u202egnp.exe\u202c \u2066\u200f",
    "x" * 1_000_000,
]


def info_of(cluster: Cluster) -> ConnectionFile:
    assert cluster.connection_file is not None
    return connection_file.read(cluster.connection_file)


def port_of(cluster: Cluster) -> int:
    return int(info_of(cluster).endpoints[0].rpartition(":")[2])


def bearer(cluster: Cluster, role: str = "admin") -> dict[str, str | None]:
    return {"Authorization": f"Bearer {info_of(cluster).tokens[role]}"}


def credentials(app: concurrent_nb.ApplicationNode) -> dict[str, str]:
    return app._client_thread.member.credentials


@pytest.fixture
def follower(cluster: Cluster) -> Iterator[Follower]:
    assert cluster.connection_file is not None
    with following(cluster.connection_file) as follower:
        yield follower


# ------------------------------------------------------------------------------------------------------ what one sees


def test_the_progress_of_a_job_arrives_while_it_runs(follower: Follower, app: concurrent_nb.ApplicationNode) -> None:
    seen: list[int] = []

    def notes_progress(_: dict[str, Any]) -> bool:
        if (job := follower.job("progress")) is not None and (not seen or job["done"] != seen[-1]):
            seen.append(job["done"])
        return bool(seen) and seen[-1] == 40

    job = app.start_job(time.sleep, [(0.05,)] * 40, name="progress")
    follower.eventually(notes_progress, "all its tasks have ended")
    assert len(seen) > 2 and seen == sorted(seen)
    assert follower.kinds[0] == "snapshot" and set(follower.kinds[1:]) == {"delta"}
    assert len(job.results()) == 40
    follower.eventually(lambda state: len(state["stream"]["marks"]) // 28 >= 40, "its tasks have marks")
    assert "sleep" in follower.state["stream"]["functions"]
    record = follower.job("progress")
    assert record is not None
    assert record["run_s"] > 40 * 0.04 and (record["failed"], record["cancelled"]) == (0, 0)


def test_a_task_is_seen_while_it_runs(follower: Follower, app: concurrent_nb.ApplicationNode) -> None:
    future = app.submit(time.sleep, 1.5)
    follower.eventually(lambda state: state["running"], "it runs", within_s=10)
    (_, number, slave, started_s, worker), *_ = follower.state["running"]
    assert number == 0 and slave in follower.state["slaves"] and started_s <= follower.state["time_s"]
    future.result()
    assert future.worker == worker
    follower.eventually(lambda state: not state["running"], "it does not run any more", within_s=10)


def test_failed_and_cancelled_tasks_count_and_a_failed_job_is_an_event(
    follower: Follower, app: concurrent_nb.ApplicationNode
) -> None:
    job = app.start_job(work.raise_kind, [(ValueError, "<b>no</b>")] * 3, name="failing")
    with pytest.raises(ValueError):
        job.results()
    follower.eventually(lambda _: (failing := follower.job("failing")) and failing["failed"] == 3, "three have failed")
    (event,) = [event for event in follower.events("job failed") if "failing" in event["text"]]
    assert "ValueError: <b>no</b>" in event["text"]


def load_number(gate: Path, number: int) -> int:
    """Return a number once a file exists."""
    while not gate.exists():
        time.sleep(0.01)
    return number


def clean_number(number: int) -> int:
    return -number


def add_numbers(one: int, two: int) -> int:
    return one + two


def test_the_graph_is_seen_folded_by_function(
    follower: Follower, cluster: Cluster, app: concurrent_nb.ApplicationNode, tmp_path: Path
) -> None:
    gate = tmp_path / "gate"

    def counts(state: dict[str, Any]) -> dict[str, tuple[int, ...]]:
        """Return for each function: tasks, blocked, waiting or running, done."""
        graphs = state["graphs"].values() if isinstance(state["graphs"], dict) else state["graphs"]
        rows = [row for graph in graphs for row in graph["functions"]]
        return {
            name: (tasks, blocked, waiting + running, done) for name, tasks, blocked, waiting, running, done, *_ in rows
        }

    numbers = [app.submit(load_number, gate, number) for number in range(4)]
    total = app.reduce(add_numbers, [number.then(clean_number) for number in numbers], fan_in=2)
    before = {"load_number": (4, 0, 4, 0), "clean_number": (4, 4, 0, 0), "add_numbers": (3, 3, 0, 0)}
    follower.eventually(lambda state: counts(state) == before, "those that need others are blocked")
    with following(str(cluster.connection_file), "client") as nobody:
        nobody.eventually(lambda state: state["graphs"] == {}, "one who has none sees none")
    assert counts(cluster.status()) == before
    gate.touch()
    assert total.result(work.PATIENCE_S) == -6
    after = {"load_number": (4, 0, 0, 4), "clean_number": (4, 0, 0, 4), "add_numbers": (3, 0, 0, 3)}
    follower.eventually(lambda state: counts(state) == after, "all have ended")
    (graph,) = follower.state["graphs"].values()
    names = [row[0] for row in graph["functions"]]
    edges = {(names[source], names[target]): count for source, target, count in graph["edges"]}
    assert edges == {
        ("load_number", "clean_number"): 4,
        ("clean_number", "add_numbers"): 4,
        ("add_numbers", "add_numbers"): 2,
    }
    assert graph["ended_s"] is not None


def test_a_client_sees_only_its_own_jobs_and_the_totals(cluster: Cluster, app: concurrent_nb.ApplicationNode) -> None:
    path = str(cluster.connection_file)
    secret = app.start_job(len, [("x",)], name="secret plans")
    with (
        concurrent_nb.connect(path) as other,
        following(path, "client", **credentials(other)) as mine,
        following(path, "client") as nobodys,
        following(path, "admin") as admins,
    ):
        job = other.start_job(work.square, [(2,)] * 10, name="mine")
        job.results()
        secret.results()
        mine.eventually(lambda _: (own := mine.job("mine")) and own["done"] == 10 and own["mine"], "it sees its job")
        admins.eventually(lambda _: admins.job("mine") and admins.job("secret plans"), "an admin sees both")
        nobodys.eventually(lambda state: state["totals"]["done"] >= 11, "the totals are everybody's")
        mine.eventually(lambda state: len(state["stream"]["marks"]) // 28 == 10, "its tasks have marks")
        assert {job["name"] for job in mine.state["jobs"].values()} == {"mine"}
        assert mine.state["stream"]["functions"] == ["square"]
        assert nobodys.state["jobs"] == {} and nobodys.state["stream"]["functions"] == []
        assert set(nobodys.state["slaves"]) == set(mine.state["slaves"]) == set(admins.state["slaves"])


def test_a_thousand_jobs_are_listed(follower: Follower, app: concurrent_nb.ApplicationNode) -> None:
    jobs = [app.start_job(work.square, [(number,)], name=f"job {number}") for number in range(1000)]
    for job in jobs:
        job.results()
    names = {f"job {number}" for number in range(1000)}
    # The last 200 that have ended are shown.
    follower.eventually(lambda _: (newest := follower.job("job 999")) and newest["done"] == 1, "the last has ended")
    assert len(names & {job["name"] for job in follower.state["jobs"].values()}) >= 200


@pytest.mark.parametrize("name", EVIL_NAMES, ids=["html", "ansi", "bidi", "1 MB"])
def test_odd_names_are_carried_as_bounded_text(
    follower: Follower, app: concurrent_nb.ApplicationNode, name: str
) -> None:
    app.start_job(work.square, [(1,)], name=name).results()

    def names(state: dict[str, Any]) -> list[str]:
        return [job["name"] for job in state["jobs"].values() if job["name"][:50] == name[:50]]

    follower.eventually(names, "the job is listed under its name")
    assert all(
        each.rstrip(".\N{HORIZONTAL ELLIPSIS}") == name[: len(each.rstrip("."))] for each in names(follower.state)
    )
    assert all(len(each) <= 200 for each in names(follower.state))


# ---------------------------------------------------------------------------------------------------------- who may not


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({"Authorization": None}, 401),
        ({"Authorization": "Bearer " + "x" * 43}, 401),
        ({"Authorization": "Basic abc"}, 401),
        ({"Cookie": "session=abc", "Authorization": None}, 401),
        ({"Host": "evil.example"}, 403),
        ({"Host": None}, 400),
        ({"Origin": "https://evil.example"}, 403),
        ({"Origin": "null"}, 403),
        ({"Upgrade": None}, 400),
        ({"Sec-WebSocket-Key": None}, 400),
        ({"Sec-WebSocket-Version": "12"}, 426),
    ],
)
def test_a_request_that_is_not_right_is_refused_before_the_upgrade(
    cluster: Cluster, headers: dict[str, str | None], status: int
) -> None:
    with RawSocket(port_of(cluster), {**bearer(cluster), **headers}) as reader:
        assert (reader.status, "server" in reader.headers) == (status, False)


def test_a_slave_may_not_watch(cluster: Cluster) -> None:
    with RawSocket(port_of(cluster), bearer(cluster, "slave")) as reader:
        assert reader.status == 403
        assert "needs a token of role admin or client" in json.loads(reader.body)["error"]["message"]


def test_a_page_of_its_own_may_watch(cluster: Cluster) -> None:
    headers = {**bearer(cluster), "Origin": f"http://127.0.0.1:{port_of(cluster)}"}
    with RawSocket(port_of(cluster), headers) as reader:
        reader.call("watch")
        assert reader.message()["result"] == {"interval_s": 0.25}
        assert reader.message()["method"] == "snapshot"


def test_a_session_that_is_not_ones_own_is_refused(cluster: Cluster, app: concurrent_nb.ApplicationNode) -> None:
    own = credentials(app)
    with RawSocket(port_of(cluster), bearer(cluster, "client")) as reader:
        reader.call("watch", **{**own, "secret": "wrong"})
        assert reader.message()["error"]["data"]["type"] == "AccessRefused"
        reader.call("watch", **{**own, "session": "no hex"})
        assert reader.message()["error"]["data"]["type"] == "AccessRefused"
        reader.call("watch", **own)
        assert "result" in reader.message()


# --------------------------------------------------------------------------------------------------------- when it ends


def test_a_reader_that_comes_back_resumes_where_it_was(follower: Follower, app: concurrent_nb.ApplicationNode) -> None:
    follower.eventually(lambda state: state, "it has a snapshot")
    for number in range(3):
        before = len(follower.kinds)
        follower.disturb()
        app.start_job(work.square, [(1,)], name=f"meanwhile {number}").results()
        follower.eventually(lambda _, name=f"meanwhile {number}": follower.job(name), "it has what came meanwhile")  # type: ignore[misc]
        assert "lost" in follower.kinds[before:]
    assert follower.kinds.count("snapshot") == 1


def test_a_slave_that_is_killed_is_an_event_within_five_seconds() -> None:
    with Cluster(workers=1) as cluster:
        assert cluster.connection_file is not None
        with following(cluster.connection_file) as follower:
            follower.eventually(lambda state: state["slaves"], "the slave is seen")
            (name,) = follower.state["slaves"]
            os.kill(slave_pids(cluster)[0], signal.SIGKILL)
            follower.eventually(lambda _: follower.events("slave lost"), "the slave is lost", within_s=5.0)
            assert follower.events("slave lost")[0]["slave"] == name
            follower.eventually(lambda state: name not in state["slaves"], "it is not listed", within_s=5.0)


def test_the_jobs_of_a_kernel_that_is_killed_end_within_five_seconds(follower: Follower, cluster: Cluster) -> None:
    follower.eventually(lambda state: state["totals"]["clients"] == 1, "the cluster's own application is there")
    source = (
        "import sys, time, concurrent_nb\n"
        "app = concurrent_nb.connect(sys.argv[1])\n"
        "app.start_job(time.sleep, [(600,)] * 5, name='orphan').results()\n"
    )
    command = [sys.executable, "-c", source, str(cluster.connection_file)]
    with subprocess.Popen(command, cwd=ROOT) as kernel:
        try:
            follower.eventually(lambda _: (job := follower.job("orphan")) and job["state"] == "running", "it runs")
        finally:
            kernel.kill()
    follower.eventually(lambda state: state["totals"]["clients"] == 1, "its application is gone", within_s=5.0)
    follower.eventually(
        lambda _: (job := follower.job("orphan")) is None or job["cancelled"] == 5, "its job has ended", within_s=5.0
    )
    follower.eventually(lambda state: state["totals"]["assigned"] == 0, "nothing of it runs", within_s=10.0)


def test_a_master_that_was_started_anew_under_its_name_sends_a_new_snapshot() -> None:
    with running("master", "--name", "phoenix", says="is running") as master, following("phoenix") as follower:
        follower.eventually(lambda state: state["name"] == "phoenix", "there is a snapshot")
        epoch = follower.state["epoch"]
        master.kill()
        master.wait()
        eventually(lambda: follower.kinds[-1] == "lost", "the reader has lost the master", within_s=5.0)
        with running("master", "--name", "phoenix", says="is running"):
            follower.eventually(lambda state: state["epoch"] > epoch, "there is one of the new master", within_s=20.0)
        assert follower.kinds.count("snapshot") == 2
        eventually(lambda: follower.kinds[-1] == "lost", "the master has stopped", within_s=5.0)


def test_readers_of_a_master_that_stops_are_told(cluster: Cluster) -> None:
    with running("master", "--name", "ending", says="is running"):
        info = connection_file.read("ending")
        headers: dict[str, str | None] = {"Authorization": f"Bearer {info.tokens['admin']}"}
        with RawSocket(int(info.endpoints[0].rpartition(":")[2]), headers) as reader:
            reader.call("watch")
            assert "result" in reader.message()
            with ControlClient(info.endpoints, info.tokens["admin"]) as control:
                control.call("stop_cluster")
            assert reader.close_code() == 1001


def test_nothing_is_computed_while_nobody_watches(cluster: Cluster, app: concurrent_nb.ApplicationNode) -> None:
    def feed() -> dict[str, Any]:
        with ControlClient(info_of(cluster).endpoints, info_of(cluster).tokens["client"]) as control:
            shown: dict[str, Any] = control.call("status")["feed"]
            return shown

    with RawSocket(port_of(cluster), bearer(cluster)) as reader:
        reader.call("watch")
        reader.answer()
        first = reader.message()["params"]["seq"]
        assert feed()["readers"] == 1
    eventually(lambda: feed()["readers"] == 0, "the reader is forgotten", 10.0)
    time.sleep(0.5)  # a tick that was under way ends
    before = feed()
    assert before["cpu_s"] > 0
    for number in range(8):
        app.submit(work.square, number).result()
        time.sleep(0.1)
    assert feed() == before
    with RawSocket(port_of(cluster), bearer(cluster)) as reader:
        reader.call("watch")
        reader.answer()
        assert reader.message()["params"]["seq"] <= first + 2
