"""A running cluster is inspected and steered, by its master's control channel and by the command line."""

import concurrent.futures
import json
import re
import signal
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from prometheus_client.parser import text_string_to_metric_families

from concurrent_nb import ApplicationNode, Cluster
from concurrent_nb.errors import AccessRefused, ConfigurationError
from concurrent_nb.transport import connection_file
from concurrent_nb.transport.connection_file import ConnectionFile
from concurrent_nb.transport.control_client import ControlClient
from concurrent_nb.transport.http_link import Deadline, Endpoint, HttpLink, Reply
from tests.clusters import (
    BRISK,
    alive,
    command,
    eventually,
    nothing_left_but_workers,
    run,
    running,
    shared_cluster,
    slave_pids,
    status_of,
    workers_of,
)
from tests.traces import read_trace, rows_of, slices_of_tasks
from tests.work import PATIENCE_S

LAB = "steered"


@pytest.fixture(scope="module")
def cluster() -> Iterator[Cluster]:
    with shared_cluster(name=LAB, config=BRISK) as cluster:
        yield cluster


@pytest.fixture(autouse=True)
def leaves_nothing_behind(cluster: Cluster) -> Iterator[None]:
    """Allow that a cancelled task has cost its worker."""
    with nothing_left_but_workers(cluster):
        yield


@pytest.fixture(scope="module")
def info(cluster: Cluster) -> ConnectionFile:
    assert cluster.connection_file is not None
    return connection_file.read(cluster.connection_file)


@pytest.fixture(scope="module")
def app(cluster: Cluster) -> ApplicationNode:
    return cluster.application()


@pytest.fixture
def admin(info: ConnectionFile) -> Iterator[ControlClient]:
    with ControlClient(info.endpoints, info.tokens["admin"], info.certificate_pem, timeout_s=PATIENCE_S) as control:
        yield control


@pytest.fixture
def other(cluster: Cluster) -> Iterator[ApplicationNode]:
    """Return an application of another user."""
    assert cluster.connection_file is not None
    from concurrent_nb.transport import keys

    with ApplicationNode(cluster.connection_file, keys.fresh(), "another-user") as other:
        yield other


def open_job(admin: ControlClient, name: str) -> dict[str, Any]:
    """Return the job of that name, when the master has it."""
    found: list[dict[str, Any]] = []

    def look() -> bool:
        found[:] = [job for job in admin.call("status")["jobs"] if job["name"] == name]
        return bool(found)

    eventually(look, f"the master has job {name}")
    return found[0]


def mandelbrot_column(x: float) -> list[int]:
    """Return the iterations of each point of a column."""
    column = []
    for row in range(60):
        c = complex(x, -1.2 + 2.4 * row / 60)
        z, count = 0j, 0
        while abs(z) < 2 and count < 60:
            z, count = z * z + c, count + 1
        column.append(count)
    return column


# ---------------------------------------------------------------------------------------------------------- cancelling


def test_an_admin_cancels_a_job_of_anyone(app: ApplicationNode, admin: ControlClient) -> None:
    job = app.start_job(time.sleep, [(60,)] * 20, name="long")
    found = open_job(admin, "long")
    assert admin.call("cancel_job", job=found["id"]) == 20
    assert job.wait(PATIENCE_S)
    assert job.cancelled()
    assert job.counts().cancelled == 20
    with pytest.raises(concurrent.futures.CancelledError, match="job long was cancelled"):
        job.results()


def test_submits_after_a_cancellation_run(app: ApplicationNode, admin: ControlClient) -> None:
    futures = [app.submit(time.sleep, 60) for _ in range(4)]
    found = open_job(admin, app.name)
    assert admin.call("cancel_job", job=found["id"]) == 4
    done, _ = concurrent.futures.wait(futures, PATIENCE_S)
    assert len(done) == 4
    assert all(future.cancelled() for future in futures)
    assert app.submit(pow, 2, 10).result(PATIENCE_S) == 1024


def test_one_task_is_cancelled(app: ApplicationNode, admin: ControlClient) -> None:
    job = app.start_job(time.sleep, [(60,), (60,), (60,)], name="three")
    found = open_job(admin, "three")
    assert admin.call("cancel_task", job=found["id"], index=1) == 1
    eventually(lambda: job.counts().cancelled == 1, "the task has ended")
    assert job.futures[1].cancelled()
    job.cancel()
    assert job.wait(PATIENCE_S)


def test_a_user_cancels_and_traces_only_what_is_theirs(
    app: ApplicationNode, other: ApplicationNode, tmp_path: Path
) -> None:
    job = app.start_job(time.sleep, [(60,)], name="mine")
    eventually(lambda: job.counts().running, "it runs")
    for method in ("cancel_job", "trace", "share_view", "job_view"):
        with pytest.raises(ConfigurationError, match=job.id.hex()):
            other._ask(method, job=job.id.hex())
    assert not job.done()
    assert other._ask("trace")["tasks"] == []
    theirs = other.start_job(pow, [(2, 2)], name="theirs")
    assert theirs.results() == [4]
    assert {task["job"] for task in other._ask("trace")["tasks"]} == {theirs.id.hex()}
    assert theirs.trace(tmp_path / "trace.json").tasks == 1
    assert app._ask("cancel_job", job=job.id.hex()) == 1
    app._client_thread.member.control.close()
    assert job.wait(PATIENCE_S)


def test_a_client_without_a_session_is_refused(info: ConnectionFile) -> None:
    with ControlClient(info.endpoints, info.tokens["client"], info.certificate_pem) as client:
        for method, params in (
            ("cancel_job", {"job": "00" * 16}),
            ("trace", {}),
            ("cancel_task", {"job": "00" * 16, "index": 0}),
        ):
            with pytest.raises(AccessRefused, match="session of its own"):
                client.call(method, **params)
        for method, params in (("drain_slave", {"slave": "x"}), ("config", {}), ("set_log_level", {"level": "DEBUG"})):
            with pytest.raises(AccessRefused, match="needs a token of role admin"):
                client.call(method, **params)


# -------------------------------------------------------------------------------------------------------------- traces


def test_the_columns_of_the_mandelbrot_set_are_on_their_workers(app: ApplicationNode, tmp_path: Path) -> None:
    columns = [-2.2 + 3.2 * x / 90 for x in range(90)]
    job = app.start_job(mandelbrot_column, [(x,) for x in columns], name="mandelbrot")
    job.results()
    summary = job.trace(tmp_path / "mandelbrot.json")
    assert (summary.tasks, summary.dropped) == (90, 0)
    events = read_trace(tmp_path / "mandelbrot.json")
    rows, slices = rows_of(events), slices_of_tasks(events)
    placed = {int(each["args"]["task"].rpartition("/")[2]): rows[each["pid"], each["tid"]] for each in slices}
    assert placed == {future.index: (f"slave {future.slave}", f"worker {future.worker}") for future in job.futures}
    assert {each["name"] for each in slices} == {"mandelbrot_column"}
    assert {each["args"]["status"] for each in slices} == {"ok"}
    (of_job,) = [event for event in events if event.get("cat") == "job"]
    assert (of_job["name"], of_job["args"]["tasks"]) == ("mandelbrot", 90)
    elapsed_s = sum(future.elapsed_s for future in job.futures)
    assert sum(each["args"]["run_s"] for each in slices) == pytest.approx(elapsed_s, rel=0.01)


def test_a_trace_of_all_has_submits_maps_and_failures(app: ApplicationNode, tmp_path: Path) -> None:
    assert app.submit(pow, 2, 3).result() == 8
    assert list(app.map(abs, [-1, -2])) == [1, 2]
    assert isinstance(app.submit(divmod, 1, 0).exception(), ZeroDivisionError)
    summary = app.trace(tmp_path / "all.json")
    events = read_trace(tmp_path / "all.json")
    assert summary.tasks >= 3
    assert "task,failed" in {each["cat"] for each in slices_of_tasks(events)}


# ------------------------------------------------------------------------------------------------------------- metrics


def scrape(info: ConnectionFile, token: str | None, method: str = "GET") -> Reply:
    link = HttpLink(Endpoint.of(info.endpoints[0], None), Deadline(PATIENCE_S))
    try:
        headers = {} if token is None else {"Authorization": f"Bearer {token}"}
        return link.exchange(method, "/metrics", headers, b"", Deadline(PATIENCE_S))
    finally:
        link.close()


def samples(info: ConnectionFile) -> dict[tuple[str, tuple[str, ...]], float]:
    text = scrape(info, info.tokens["client"]).body.decode()
    return {
        (sample.name, tuple(sample.labels.values())): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }


def test_metrics_count_what_has_run(app: ApplicationNode, info: ConnectionFile) -> None:
    ok = "concurrent_nb_tasks_ended_total", ("ok",)
    before = samples(info)
    job = app.start_job(pow, [(2, n) for n in range(250)])
    job.results()
    after = samples(info)
    assert after[ok] - before[ok] == 250
    assert after["concurrent_nb_slaves", ()] == 1
    assert {name for name, _ in before} <= {name for name, _ in after}
    assert not [labels for name, labels in after if job.id.hex() in labels or "pow" in labels]


@pytest.mark.parametrize("role", ["admin", "client"])
def test_metrics_are_for_these_roles(info: ConnectionFile, role: str) -> None:
    assert scrape(info, info.tokens[role]).status == 200


def test_metrics_are_refused_to_others(info: ConnectionFile) -> None:
    assert scrape(info, None).status == scrape(info, "x" * 32).status == 401
    refused = scrape(info, info.tokens["slave"])
    assert refused.status == 403
    assert b"metrics need a token of role admin or client, not slave" in refused.body
    assert scrape(info, info.tokens["admin"], "POST").status == 405


# ------------------------------------------------------------------------------------------------------------ settings


def test_a_setting_changes_while_tasks_run(app: ApplicationNode, admin: ControlClient) -> None:
    job = app.start_job(time.sleep, [(0.01,)] * 100)
    for strategy in ("push_best", "stealing", "locality", "pull_round_robin"):
        assert admin.call("set_config", item="MasterNode.strategy", value=strategy) == strategy
        assert admin.call("config")["MasterNode.strategy"]["value"] == strategy
    assert len(job.results()) == 100
    with pytest.raises(
        ConfigurationError, match="cannot change while the master runs: nodes get it when they register"
    ):
        admin.call("set_config", item="MasterNode.interval_s", value=5.0)


def test_the_level_of_logs_changes_while_nodes_run(cluster: Cluster, admin: ControlClient) -> None:
    before = cluster.log_tail()
    assert admin.call("set_log_level", level="DEBUG") == 1
    admin.call("status")
    eventually(lambda: "master DEBUG" in cluster.log_tail(20_000).removeprefix(before), "the master logs details")
    admin.call("set_log_level", level="WARNING")


# -------------------------------------------------------------------------------------------------------- command line


def printed(*arguments: str) -> str:
    ended = run(*arguments)
    assert (ended.returncode, ended.stderr) == (0, "")
    assert "\x1b" not in ended.stdout
    return ended.stdout


def refused(*arguments: str) -> str:
    ended = run(*arguments)
    assert ended.returncode == 1
    assert "Traceback" not in ended.stderr
    return ended.stderr


def test_slaves_and_jobs_are_listed(app: ApplicationNode, admin: ControlClient) -> None:
    job = app.start_job(time.sleep, [(60,)] * 3, name="listed \x1b[31m")
    open_job(admin, "listed \x1b[31m")
    (slave,) = admin.call("status")["slaves"]
    assert re.search(rf"^{slave['name']} +active .* 2 ", printed("slaves", LAB), re.MULTILINE)
    assert json.loads(printed("slaves", LAB, "--json"))[0]["name"] == slave["name"]
    lines = printed("jobs", LAB).splitlines()
    assert re.fullmatch(rf"{job.id.hex()[:8]}  listed \?\[31m +running +0 +3 +\d +{app.name}  .*", lines[-1])
    assert job.id.hex() in [each["id"] for each in json.loads(printed("jobs", LAB, "--json"))]
    assert printed("cancel", LAB, job.id.hex()[:6], "--task", "2").startswith("cancelling task 2 of job listed ?[31m (")
    assert json.loads(printed("cancel", LAB, job.id.hex(), "--json")) == {"job": job.id.hex(), "cancelled": 2}
    assert job.wait(PATIENCE_S)


def test_a_trace_is_written_by_the_command_line(app: ApplicationNode, tmp_path: Path) -> None:
    job = app.start_job(pow, [(2, n) for n in range(5)], name="traced")
    job.results()
    path = tmp_path / "out.json"
    for which in (job.id.hex(), job.id.hex()[:10], "traced"):
        assert printed("trace", LAB, "--job", which, "-o", str(path)).startswith("wrote 5 tasks on 1 slave to ")
        read_trace(path)
    told = json.loads(printed("trace", LAB, "-o", str(path), "--json"))
    assert told["tasks"] >= 5
    assert told["file"] == str(path)
    assert "cannot be written" in refused("trace", LAB, "-o", str(tmp_path / "no" / "out.json"))


def test_settings_are_shown_and_changed() -> None:
    assert re.search(r"^MasterNode.strategy +pull_round_robin +yes +Which", printed("config", LAB), re.MULTILINE)
    changed = printed("config", LAB, "--MasterNode.deaths_allowed=4", "--log-level", "WARNING")
    assert changed.splitlines() == [
        "the master and 1 slave log from level WARNING on",
        "MasterNode.deaths_allowed is 4 until the master ends",
    ]
    assert "MasterNode.deaths_allowed = 4\n" in printed("config", LAB, "MasterNode.deaths_allowed")
    assert json.loads(printed("config", LAB, "MasterNode.deaths_allowed", "--json")).popitem()[1]["value"] == 4
    assert "it may not change" in printed("config", LAB, "MasterNode.interval_s")


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["jobs", "nowhere"], "nowhere"),
        (["slaves", LAB, "--MasterNode.clients=3"], "slaves takes no configuration items"),
        (["cancel", LAB, "no-such-job"], "there is no job 'no-such-job': `concurrent-nb jobs` lists the jobs"),
        (["drain", LAB, "no-such-slave"], "there is no slave 'no-such-slave'; the slaves are: "),
        (["trace", LAB, "--job", "no-such-job"], "there is no job 'no-such-job'"),
        (["trace", LAB, "--job", "00" * 16], f"no task of a job {'00' * 16}"),
        (["config", LAB, "MasterNode.colour"], "there is no setting 'MasterNode.colour'"),
        (["config", LAB, "MasterNode.clients=5"], "give it as an option: --MasterNode.clients=5"),
        (["config", LAB, "--MasterNode.control_port=5"], "start it again with --MasterNode.control_port=5"),
        (["config", LAB, "--SlaveNode.workers=5"], "start that node again"),
        (["config", LAB, "MasterNode.clients", "--MasterNode.clients=5"], "give either"),
    ],
)
def test_what_is_refused_is_named(cluster: Cluster, arguments: list[str], says: str) -> None:
    assert says in refused(*arguments)


def test_top_repeats_until_it_is_interrupted(cluster: Cluster) -> None:
    top = subprocess.Popen(command("top", LAB, "--interval", "0.1"), stdout=subprocess.PIPE, text=True)
    assert top.stdout is not None
    screens = 0
    while screens < 3:
        line = top.stdout.readline()
        assert line
        screens += line.startswith(f"cluster {LAB}")
    top.send_signal(signal.SIGINT)
    rest, _ = top.communicate(timeout=PATIENCE_S)
    assert top.returncode == 130
    assert "tasks/s" in rest or screens == 3


def test_top_for_programs(cluster: Cluster) -> None:
    top = subprocess.Popen(command("top", LAB, "--interval", "0.1", "--json"), stdout=subprocess.PIPE, text=True)
    assert top.stdout is not None
    first, second = json.loads(top.stdout.readline()), json.loads(top.stdout.readline())
    top.send_signal(signal.SIGINT)
    top.communicate(timeout=PATIENCE_S)
    assert first["rates"]["tasks"] is None
    assert second["rates"]["tasks"] >= 0
    assert second["status"]["name"] == LAB


# ------------------------------------------------------------------------------------------------------------ draining


def test_a_slave_leaves_with_its_workers_when_its_tasks_have_ended(tmp_path: Path) -> None:
    flag = tmp_path / "go"
    with Cluster(workers=2, config=BRISK) as cluster:
        app = cluster.application()
        waiting = app.start_job(wait_for, [(str(flag),), (str(flag),)], name="waiting")
        eventually(lambda: waiting.counts().running == 2, "both run")
        behind = app.start_job(pow, [(2, 3)] * 10, name="behind")
        (slave,) = slave_pids(cluster)
        workers = workers_of([slave])
        assert len(workers) >= 2
        (name,) = [each["name"] for each in cluster.status()["slaves"]]
        assert cluster.connection_file is not None
        assert f"slave {name} leaves when its running tasks have ended; it has 2 now" in re.sub(
            r"it has \d+", "it has 2", printed("drain", str(cluster.connection_file), name)
        )
        assert [each["state"] for each in cluster.status()["slaves"]] == ["draining"]
        assert not behind.done()
        flag.touch()
        assert waiting.results() == [True, True]
        eventually(lambda: not cluster.status()["slaves"], "it has left")
        eventually(lambda: not alive({slave, *workers}), "its processes have ended")
        eventually(lambda: cluster.workers == 0, "its owner has noticed")
        assert not behind.done()
        cluster.scale(1)
        assert behind.results() == [8] * 10


def wait_for(path: str) -> bool:
    import pathlib
    import time

    while not pathlib.Path(path).exists():
        time.sleep(0.02)
    return True


# ---------------------------------------------------------------------------------------------------------------- logs


def test_logs_are_json_when_that_is_asked_for() -> None:
    name = "logging"
    with running("master", "--name", name, "--log-format", "json", says="is running") as master:
        with running("slave", "--connect", name, "--name", "east", "--log-format", "json", says="has joined") as slave:
            printed("config", name, "--log-level", "INFO")
            printed("config", name, "--MasterNode.clients=5")
            printed("drain", name, "east", "--wait")
            _, slave_log = slave.communicate(timeout=PATIENCE_S)
            assert slave.returncode == 0
        assert status_of(name)["slaves"] == []
        printed("stop", name)
        _, master_log = master.communicate(timeout=PATIENCE_S)
    lines = [json.loads(line) for line in (*master_log.splitlines(), *slave_log.splitlines())]
    assert all({"time", "level", "logger", "message"} <= line.keys() for line in lines)
    assert any("asked this slave to leave" in line["message"] for line in lines)
    (gone,) = [line for line in lines if "has gone" in line["message"]]
    assert gone["slave"] == "east"


def test_an_embedded_cluster_logs_json() -> None:
    with Cluster(workers=1, log_format="json") as cluster:
        assert cluster.connection_file is not None
        printed("config", str(cluster.connection_file), "--MasterNode.clients=5")
        log = cluster.log_tail()
    (line,) = [json.loads(line) for line in log.splitlines()]
    assert line["node"] == "master"
    assert line["message"] == "setting MasterNode.clients is 5 from now on"
    with pytest.raises(ConfigurationError, match="log_format is 'xml', it must be one of text, json"):
        Cluster(log_format="xml")  # type: ignore[arg-type]
