"""Slaves as jobs of a real Slurm with two nodes on this machine."""

import os
import re
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from concurrent_nb import Cluster
from concurrent_nb.errors import ConfigurationError, LaunchFailed, PoisonTask
from concurrent_nb.transport import connection_file
from tests import leaks, slurm_cluster, work
from tests.clusters import BRISK, eventually
from tests.demonstrations import check_demonstrations

pytestmark = pytest.mark.skipif(bool(slurm_cluster.missing()), reason=slurm_cluster.missing())

#: of each slave of the cluster that the tests share: there is one on each node, and as many cores are left there
CORES = slurm_cluster.CORES_PER_NODE // 2
OPTIONS: dict[str, Any] = {"poll_s": 1.0, "config": BRISK}


@pytest.fixture(scope="module")
def slurm() -> Iterator[None]:
    before = leaks.held()
    with slurm_cluster.slurm_cluster() as configuration, pytest.MonkeyPatch.context() as patch:
        patch.setenv("SLURM_CONF", str(configuration))
        yield
    assert leaks.left_since(before) == []


@pytest.fixture(scope="module")
def cluster(slurm: None) -> Iterator[Cluster]:
    """A cluster with a slave on each node."""
    with Cluster(on="slurm:short", slaves=2, cores=CORES, **OPTIONS) as cluster:
        eventually(lambda: len(cluster.status()["slaves"]) == 2, "both slaves have joined")
        yield cluster
    assert commands("squeue", "--noheader") == ""


@pytest.fixture(autouse=True)
def leaves_nothing_behind() -> None:
    """Slaves are replaced in these tests; what the module leaves is looked at when it ends."""


def commands(*words: str) -> str:
    """Run a command of Slurm; give its output."""
    return subprocess.run(words, capture_output=True, text=True, check=True, timeout=work.PATIENCE_S).stdout.strip()


def jobs() -> list[str]:
    """Give the numbers of the jobs that run."""
    return commands("squeue", "--noheader", "--states=RUNNING", "--format=%i").split()


def node_after(seconds: float) -> str:
    time.sleep(seconds)
    return os.environ["SLURMD_NODENAME"]


def await_failure(cluster: Cluster) -> None:
    """Return when there is no slave for a long time; a slave that has joined may be refused nevertheless."""
    while cluster.wait_for_slave(work.PATIENCE_S):
        time.sleep(0.05)


def test_a_job_runs_on_both_nodes(cluster: Cluster) -> None:
    nodes = set(cluster.application().map(node_after, [0.05] * 40))
    assert nodes == {"n1", "n2"}
    assert cluster.workers == 2 * CORES


def test_nothing_secret_is_in_a_script_or_in_arguments(cluster: Cluster) -> None:
    assert cluster.connection_file is not None
    secrets = connection_file.read(cluster.connection_file).tokens.values()
    script = commands("scontrol", "write", "batch_script", jobs()[0], "-")
    shown = script + commands("ps", "-eo", "args") + commands("scontrol", "show", "job")
    assert "slave" in script
    assert not [secret for secret in secrets if secret in shown]
    (folder,) = {Path(each).parent for each in re.findall(r"--connect (\S+)", script)}
    assert folder.stat().st_mode & 0o777 == 0o700
    assert {path.stat().st_mode & 0o777 for path in folder.glob("*.json")} == {0o600}


def test_a_job_survives_the_loss_of_its_slaves(cluster: Cluster) -> None:
    lost = jobs()
    futures = [cluster.application().submit(node_after, 0.2) for _ in range(60)]
    commands("scancel", "--signal=KILL", "--full", *lost)
    assert len([future.result(work.PATIENCE_S) for future in futures]) == 60
    eventually(lambda: len(cluster.status()["slaves"]) == 2, "two slaves are there again")
    assert not set(lost) & set(jobs())


def test_a_slave_leaves_before_its_time_is_up_and_is_replaced(cluster: Cluster) -> None:
    before = jobs()
    names = {slave["name"] for slave in cluster.status()["slaves"]}
    running = [cluster.application().submit(node_after, 0.5) for _ in range(16)]
    commands("scontrol", "update", f"jobid={before[0]}", "timelimit=1")

    def is_replaced() -> bool:
        now = {slave["name"] for slave in cluster.status()["slaves"]}
        return len(now) == 2 and len(now & names) == 1

    eventually(is_replaced, "the slave has left, and another one has joined")
    assert [future.result(work.PATIENCE_S) for future in running]
    eventually(lambda: before[0] not in jobs(), "its job has ended")
    assert before[1] in jobs()
    assert "ExitCode=4:0" in commands("scontrol", "show", "job", before[0])  # it was drained, and not killed


def test_a_slave_that_waits_says_why(cluster: Cluster) -> None:
    with Cluster(on="slurm", cores=slurm_cluster.CORES_PER_NODE, **OPTIONS) as waiting:
        eventually(lambda: "PENDING (Resources)" in str(waiting.status()["launched"]), "the slave waits for resources")
    assert commands("squeue", "--noheader", "--states=PENDING") == ""


def test_the_demonstrations_run(cluster: Cluster, tmp_path: Path) -> None:
    check_demonstrations("%concurrent start --on slurm:short --slaves 2 --poll-s 1", tmp_path)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"partition": "nowhere"}, r"sbatch refuses: .*[Ii]nvalid partition"),
        ({"time": "2-00:00:00"}, r"sbatch refuses: .*time limit"),
        ({"cores": 64}, r"sbatch refuses: .*(More processors|configuration is not available|CPU count)"),
        ({"directives": ["--no-such-option"]}, r"sbatch refuses: .*no-such-option"),
        ({"interface": "nowhere0"}, r"no address for interface 'nowhere0'"),
    ],
)
def test_what_slurm_refuses_is_refused_at_once(slurm: None, options: dict[str, Any], words: str) -> None:
    with pytest.raises(LaunchFailed, match=words), Cluster(on="slurm", **OPTIONS, **options):
        pass


@pytest.mark.parametrize(
    ("options", "words"), [({"partition": "one"}, "two partitions"), ({"time": "0:59"}, "too short for tasks")]
)
def test_what_cannot_be_meant_is_refused(slurm: None, options: dict[str, Any], words: str) -> None:
    with pytest.raises(ConfigurationError, match=words), Cluster(on="slurm:short", **options):
        pass


def test_without_slurm_the_missing_command_is_named(slurm: None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "/nowhere")
    with pytest.raises(LaunchFailed, match=r"no command s\w+ on this machine"), Cluster(on="slurm"):
        pass


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"python": "/nowhere/python"}, r"/nowhere/python: No such file or directory"),
        ({"prologue": ["echo the module is missing >&2", "exit 2"]}, r"the module is missing"),
        ({"partition": "one"}, r"its time limit is 60 s, too short"),  # by default
    ],
)
def test_a_slave_that_does_not_start_says_why(slurm: None, options: dict[str, Any], words: str) -> None:
    with Cluster(on="slurm", **OPTIONS, **options) as cluster, pytest.raises(LaunchFailed, match=words):
        await_failure(cluster)


def begin_and_sleep(marks: Path) -> None:
    with marks.open("a") as file:
        file.write("x")
    time.sleep(600)


def test_a_task_whose_slaves_are_taken_away_again_and_again_ends(slurm: None, tmp_path: Path) -> None:
    config = {**BRISK, "MasterNode": {**BRISK["MasterNode"], "deaths_allowed": 1}}
    (marks := tmp_path / "marks").touch()
    with Cluster(on="slurm", **{**OPTIONS, "config": config}) as cluster:
        future, begun = cluster.application().submit(begin_and_sleep, marks), 0

        def place() -> str:
            """Give the place of the slave where the task has begun anew, once its node and its limit are known."""
            slaves = cluster.status()["slaves"] if marks.stat().st_size > begun else []
            return next((slave["place"] for slave in slaves if " on n" in slave["place"]), "")

        while not future.done() and begun < 5:  # twice, and again if the master has not learnt that it had begun
            eventually(lambda: future.done() or place(), "the task runs in a job that is known")
            if where := place():
                begun = marks.stat().st_size
                commands("scancel", where.split()[2])
        with pytest.raises(
            PoisonTask, match=r"2\. slave .* was taken away .* whose time limit is 600 s(.|\n)*longer time"
        ):
            future.result(work.PATIENCE_S)
