"""Workers are added and removed, and slaves replaced, by admins who are not the cluster's owner."""

import json
import os
import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

import concurrent_nb
from concurrent_nb import Cluster
from concurrent_nb.errors import AccessRefused, ClusterError, ConfigurationError
from concurrent_nb.notebook.current_cluster import CurrentCluster
from concurrent_nb.transport import connection_file
from concurrent_nb.transport.control_client import ControlClient
from tests.clusters import BRISK, alive, eventually, run, running, slave_pids, status_of, workers_of
from tests.work import PATIENCE_S, wait_for


@contextmanager
def control_of(name: "Path | str", role: str = "admin") -> Iterator[ControlClient]:
    info = connection_file.read(name)
    with ControlClient(info.endpoints, info.tokens[role], info.certificate_pem, timeout_s=PATIENCE_S) as control:
        yield control


def slots(control: ControlClient) -> int:
    status: dict[str, Any] = control.call("status")
    return sum(slave["slots"] for slave in status["slaves"])


def only_slave(control: ControlClient) -> str:
    (slave,) = control.call("status")["slaves"]
    return str(slave["name"])


def test_an_admin_scales_a_cluster_up_and_down_and_replaces_a_slave_while_its_owner_is_busy(tmp_path: Path) -> None:
    flag = tmp_path / "flag"
    with Cluster(workers=1, config=BRISK) as cluster:
        assert cluster.connection_file is not None
        with control_of(cluster.connection_file) as admin:
            app = cluster.application()
            eventually(lambda: slots(admin) == 1, "its slave is there")
            running_task = app.submit(wait_for, flag)
            eventually(lambda: admin.call("status")["slaves"][0]["busy"] == 1, "it runs")
            first = only_slave(admin)
            assert admin.call("scale", workers=3) == {"asked": 3, "before": 1, "slots": 1}
            eventually(lambda: slots(admin) == 3, "two more")
            assert cluster.workers == 3
            (pid,) = [each["pid"] for each in admin.call("status")["slaves"] if each["name"] == first]
            its = {pid, *workers_of([pid])}
            assert admin.call("restart_slave", slave=first) == {"slave": first, "tasks": 1, "workers": 1}
            with pytest.raises(ClusterError, match=f"slave '{first}' is leaving already"):
                admin.call("restart_slave", slave=first)
            eventually(lambda: slots(admin) == 3, "another one has come")
            assert not running_task.done()
            flag.touch()
            running_task.result(PATIENCE_S)
            eventually(lambda: first not in [each["name"] for each in admin.call("status")["slaves"]], "it has left")
            eventually(lambda: not alive(its), "with its workers")
            assert admin.call("scale", workers=1)["before"] == 3
            eventually(lambda: slots(admin) == 1, "two fewer")
            eventually(lambda: len(slave_pids(cluster)) == 1, "and their processes")
            assert app.submit(pow, 2, 3).result(PATIENCE_S) == 8


def test_what_cannot_be_done_is_refused_with_a_remedy(tmp_path: Path) -> None:
    with Cluster(workers=1, config=BRISK) as cluster:
        assert cluster.connection_file is not None
        with control_of(cluster.connection_file) as admin, control_of(cluster.connection_file, "client") as client:
            eventually(lambda: slots(admin) == 1, "its slave is there")
            for workers in (0, -1, 1001, 10**9):
                with pytest.raises(ConfigurationError, match="from 1 to 1,000"):
                    admin.call("scale", workers=workers)
            for method, params in (("scale", {"workers": 2}), ("restart_slave", {"slave": only_slave(admin)})):
                with pytest.raises(AccessRefused):
                    client.call(method, **params)
            with pytest.raises(ConfigurationError, match="no slave"):
                admin.call("restart_slave", slave="<script>")
            where = str(cluster.connection_file)
            with running("slave", "--connect", where, "--name", "elsewhere", "--workers", "1", says="has joined"):
                eventually(lambda: slots(admin) == 2, "it is there")
                with pytest.raises(ClusterError, match=r"'elsewhere' was not started by cluster .* only be drained"):
                    admin.call("restart_slave", slave="elsewhere")
                assert admin.call("scale", workers=1) == {"asked": 1, "before": 1, "slots": 2}
                assert cluster.workers == 1


def test_a_master_without_an_owner_says_what_to_do() -> None:
    with running("master", "--name", "alone", says="is running") as master:
        with control_of("alone") as admin:
            with pytest.raises(ConfigurationError, match="concurrent-nb slave --connect alone --workers N"):
                admin.call("scale", workers=2)
            with pytest.raises(ConfigurationError, match="drain it with `concurrent-nb drain alone SLAVE`"):
                admin.call("restart_slave", slave="any")
            admin.call("stop_cluster")
        master.communicate(timeout=PATIENCE_S)


def test_commands_scale_and_replace() -> None:
    with running("start", "--name", "sized", "--workers", "1", says="is running") as start:
        with control_of("sized") as admin:
            assert "2 workers from now on, after 1: 1 come" in run("scale", "sized", "2").stdout
            eventually(lambda: slots(admin) == 2, "one more")
            assert json.loads(run("scale", "sized", "2", "--json").stdout)["before"] == 2
            name = status_of("sized")["slaves"][0]["name"]
            assert f"slave {name} leaves when" in run("restart", "sized", name).stdout
            eventually(lambda: name not in [each["name"] for each in status_of("sized")["slaves"]], "it has left")
            eventually(lambda: slots(admin) == 2, "another one has come")
            refused = run("restart", "sized", name)
            assert refused.returncode == 1
            assert "Traceback" not in refused.stderr
            assert run("scale", "sized", "0").returncode == 2
            admin.call("stop_cluster")
        start.communicate(timeout=PATIENCE_S)


def test_an_owner_that_is_stopped_or_killed_hangs_nothing() -> None:
    with running("start", "--name", "stalled", "--workers", "1", says="is running") as start:
        with control_of("stalled") as admin:
            os.kill(start.pid, signal.SIGSTOP)
            try:
                began = time.monotonic()
                with pytest.raises(ClusterError, match=rf"process {start.pid}\) has not answered within 5 s"):
                    admin.call("scale", workers=2)
                with pytest.raises(ClusterError, match="has not answered the wish before"):
                    admin.call("scale", workers=3)
                assert time.monotonic() - began < PATIENCE_S
                assert slots(admin) == 1
            finally:
                os.kill(start.pid, signal.SIGCONT)
            eventually(lambda: slots(admin) == 2, "it has done the first when it went on")
            eventually(lambda: admin.call("scale", workers=1)["asked"] == 1, "and takes others")
            pids = {each["pid"] for each in admin.call("status")["slaves"]}
        os.kill(start.pid, signal.SIGKILL)
        start.wait(PATIENCE_S)
        eventually(lambda: not alive(pids), "all end with it")


def test_a_notebook_scales_a_cluster_that_another_process_has_started() -> None:
    with running("start", "--name", "theirs", "--workers", "1", says="is running"):
        current = CurrentCluster()
        current.connect("theirs")
        try:
            assert current.scale(2) == "2 workers from now on"
            with control_of("theirs") as admin:
                eventually(lambda: slots(admin) == 2, "one more")
        finally:
            current.stop()


def measure(value: float) -> None:
    concurrent_nb.stats.add("<b>rows</b>", value)


def values_of(control: ControlClient, job: str) -> dict[str, Any]:
    values: dict[str, dict[str, Any]] = control.call("stats", job=job)["values"]
    return values.get("<b>rows</b>", {})


def test_what_tasks_measure_is_seen_by_others() -> None:
    with running("start", "--name", "measured", "--workers", "1", says="is running"):
        with concurrent_nb.connect("measured") as app:
            job = app.start_job(measure, [(10.0,), (30.0,)], name="fits")
            job.wait(PATIENCE_S)
            app.submit(measure, 5.0).result(PATIENCE_S)
            with control_of("measured") as admin:
                eventually(lambda: values_of(admin, job.id.hex()).get("count") == 2, "both are there")
                assert values_of(admin, job.id.hex())["average"] == 20.0
                ids = [each["id"] for each in admin.call("stats")["jobs"] if each["id"] != job.id.hex()]
                assert [values_of(admin, other)["count"] for other in ids] == [1]
            assert "average 20" in run("stats", "measured", "--job", "fits").stdout
        with concurrent_nb.connect("measured") as app:  # which leaves at once
            job = app.start_job(measure, [(1.0,)] * 3, name="short")
            job.wait(PATIENCE_S)
        with control_of("measured") as admin:
            eventually(lambda: values_of(admin, job.id.hex()).get("count") == 3, "all three are there")
