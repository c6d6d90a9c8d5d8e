"""A whole cluster on this machine, as real processes: it starts, works, loses parts, and leaves nothing behind."""

import contextlib
import json
import os
import shutil
import signal
import subprocess
import sys
import textwrap
import threading
import time
import zipfile
from pathlib import Path
from typing import Any

import psutil
import pytest

import concurrent_nb
from concurrent_nb import ApplicationNode, Cluster, Hit
from concurrent_nb.api import OutputPiece, TaskDisplay
from concurrent_nb.errors import (
    ClusterError,
    ClusterStartFailed,
    ConfigurationError,
    MasterLost,
    TaskTimeout,
)
from concurrent_nb.nodes.application.job import Counts
from concurrent_nb.notebook.current_cluster import CurrentCluster
from concurrent_nb.outcome import Status
from concurrent_nb.shipping.runtime.notes import ProgressReport, Publication
from concurrent_nb.wire.messages import STRATEGIES
from tests import fixtures, work
from tests.clusters import (
    BRISK,
    alive,
    descendants,
    eventually,
    master_pid,
    running,
    slave_pids,
    workers_of,
)
from tests.work import PATIENCE_S

#: a cluster whose owner is gone is gone by then, in seconds
GONE_S = 5.0
CORES = len(os.sched_getaffinity(0))

ITEMS = 1500
SQUARES = [n * n for n in range(ITEMS)]


def squares_of(app: ApplicationNode, items: int = ITEMS) -> list[int]:
    return [square for square, _ in app.map(work.slow_square, range(items), timeout=PATIENCE_S)]


# --------------------------------------------------------------------------------------------------- its start and end


def test_it_starts_works_and_leaves_no_process() -> None:
    before = descendants(os.getpid())
    with Cluster(workers=2) as cluster:
        assert cluster.application().submit(pow, 2, 10).result(PATIENCE_S) == 1024
        eventually(lambda: len(workers_of(slave_pids(cluster))) == 2, "there are two workers")
        processes = descendants(os.getpid()) - before
        assert len(processes) == 5, "master, slave, template, two workers"
        assert {master_pid(cluster), *slave_pids(cluster)} <= processes
        path = cluster.connection_file
        assert path is not None
        assert path.is_file()
        assert "running" in repr(cluster)
    assert not alive(processes), "the nodes have been waited for, and their workers end before them"
    assert not path.exists()
    assert "closed" in repr(cluster)


def test_it_can_be_closed_twice_and_by_hand() -> None:
    cluster = Cluster(workers=1).start()
    assert cluster.application().submit(pow, 2, 3).result(PATIENCE_S) == 8
    cluster.close()
    cluster.close()
    with pytest.raises(ClusterError, match="has been closed"):
        cluster.application()


def test_it_cannot_be_used_before_its_start_or_after_its_end() -> None:
    cluster = Cluster(workers=1)
    for use in (cluster.application, cluster.status, cluster.wait):
        with pytest.raises(ClusterError, match="has not been started: use it as `with Cluster"):
            use()
    cluster.close()
    for use in (cluster.application, cluster.status, cluster.wait):
        with pytest.raises(ClusterError, match="has been closed"):
            use()
    with pytest.raises(ClusterError, match="has been closed"):
        cluster.start()


def test_it_cannot_be_started_twice() -> None:
    with Cluster(workers=1) as cluster:
        with pytest.raises(ClusterError, match="started already"):
            cluster.start()
        assert cluster.application().submit(pow, 2, 3).result(PATIENCE_S) == 8


def test_what_its_application_has_not_finished_is_cancelled_when_it_is_closed(tmp_path: Path) -> None:
    with Cluster(workers=1) as cluster:
        app = cluster.application()
        runs = app.submit(work.start_and_wait, tmp_path / "started", tmp_path / "never")
        waits = app.submit(work.touch, tmp_path / "touched")
        work.wait_for(tmp_path / "started")
    assert runs.cancelled()
    assert waits.cancelled()
    assert not (tmp_path / "touched").exists()


@pytest.mark.parametrize("workers", [0, -1, "abc", "2", True, 2.5])
def test_a_number_of_workers_that_makes_no_sense_is_refused_before_anything_starts(workers: Any) -> None:
    before = descendants(os.getpid())
    with pytest.raises(ConfigurationError, match=r"workers is .* at least 1"):
        Cluster(workers=workers)
    assert descendants(os.getpid()) <= before


@pytest.mark.parametrize("name", [".hidden", "a/b", "x" * 65, "no spaces", "ends.json", "../../etc/passwd"])
def test_a_name_that_makes_no_sense_is_refused_before_anything_starts(name: str) -> None:
    with pytest.raises(ConfigurationError, match="cannot name a cluster"):
        Cluster(workers=1, name=name)


OWNER = """
    import os, sys, time
    from pathlib import Path
    import concurrent_nb
    from tests import work
    from tests.clusters import descendants

    if __name__ == "__main__":
        folder = Path(sys.argv[1])
        cluster = concurrent_nb.Cluster(workers=2).start()
        app = cluster.application()
        app.submit(work.start_and_wait, folder / "a", folder / "never")
        app.submit(work.spin)
        work.wait_for(folder / "a")
        if "fork" in sys.argv:
            if os.fork() == 0:
                work.write_whole(folder / "child", str(os.getpid()))
                time.sleep(60)
                os._exit(0)
            work.wait_for(folder / "child")
        work.write_whole(folder / "ready", " ".join(map(str, descendants(os.getpid()))))
        time.sleep(60)
"""


@pytest.mark.parametrize("how", ["", "fork"], ids=["", "a child of it lives on"])
def test_kill_9_of_its_owner_ends_all_of_it(tmp_path: Path, how: str) -> None:
    owner = subprocess.Popen([sys.executable, "-c", textwrap.dedent(OWNER), str(tmp_path), how])
    try:
        pids = set(map(int, work.wait_for(tmp_path / "ready").read_text().split()))
        child = int((tmp_path / "child").read_text()) if how else 0
        assert len(pids) >= 5, "master, slave, template, two workers"
    finally:
        owner.kill()
        owner.wait()
    try:
        eventually(lambda: alive(pids) <= {child}, "only the owner's own child is left", GONE_S)
    finally:
        if child:
            os.kill(child, signal.SIGKILL)
    eventually(lambda: not alive(pids), "nothing is left", GONE_S)


def test_it_closes_although_a_forked_child_of_its_owner_holds_its_pipes() -> None:
    before = descendants(os.getpid())
    cluster = Cluster(workers=1).start()
    cluster.application().submit(pow, 2, 3).result(PATIENCE_S)
    processes = descendants(os.getpid()) - before
    child = os.fork()
    if child == 0:
        time.sleep(PATIENCE_S)
        os._exit(0)
    try:
        cluster.close()
        assert not alive(processes)
        nodes = (cluster._master, cluster._slaves[0].process)
        assert [node and node.returncode for node in nodes] == [0, 0], "they were asked, not killed"
    finally:
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)


def test_an_application_that_was_shut_down_is_followed_by_another_one(tmp_path: Path) -> None:
    with Cluster(workers=2) as cluster:
        with cluster.application() as first:
            assert first.submit(pow, 2, 5).result(PATIENCE_S) == 32
        with cluster.application() as second:
            assert second.submit(pow, 2, 6).result(PATIENCE_S) == 64
        third = cluster.application()
        assert len({first, second, third}) == 3 and cluster.application() is third
        held = third.submit(work.start_and_wait, tmp_path / "started", tmp_path / "go")
        work.wait_for(tmp_path / "started")
        third.shutdown(wait=False)  # while it finishes, there is another one beside it
        fourth = cluster.application()
        assert fourth is not third
        assert fourth.submit(pow, 2, 7).result(PATIENCE_S) == 128
        (tmp_path / "go").touch()
        assert held.result(PATIENCE_S) > 0
        fourth.close()
        assert cluster.application().submit(pow, 2, 8).result(PATIENCE_S) == 256


# ------------------------------------------------------------------------------------------------------- parts are lost


def test_kill_9_of_the_slave_loses_nothing_and_another_one_is_started() -> None:
    with Cluster(workers=2, config=BRISK) as cluster:
        app = cluster.application()
        results = app.map(work.slow_square, range(ITEMS), timeout=PATIENCE_S)
        first = [next(results) for _ in range(50)]
        (slave,) = slave_pids(cluster)
        old = {slave, *workers_of([slave])}
        os.kill(slave, signal.SIGKILL)
        rest = list(results)
        assert [square for square, _ in first + rest] == SQUARES
        assert {pid for _, pid in rest} - {pid for _, pid in first}, "others have done the rest"
        eventually(lambda: not alive(old), "the workers of the old slave are gone", GONE_S)
        assert slave_pids(cluster) not in ([slave], [])


def test_kill_9_of_the_master_ends_open_futures_with_master_lost_and_nobody_waits_for_silence(tmp_path: Path) -> None:
    # Given a cluster that is told to take silence for nothing bad: what is noticed is noticed by the connection.
    patient = {"interval_s": 1.0, "suspect_after_s": 3 * PATIENCE_S, "lost_after_s": 4 * PATIENCE_S}
    with Cluster(workers=1, config={"MasterNode": patient}) as cluster:
        app = cluster.application()
        assert squares_of(app, 10) == SQUARES[:10]
        # When its slave dies, what the slave had runs elsewhere.
        results = app.map(work.slow_square, range(300), timeout=PATIENCE_S)
        next(results)
        (slave,) = slave_pids(cluster)
        os.kill(slave, signal.SIGKILL)
        assert [square for square, _ in results] == SQUARES[1:300]
        eventually(lambda: slave not in slave_pids(cluster), "the dead slave is noticed")
        # When its master dies, everything that is open ends.
        runs = app.submit(work.start_and_wait, tmp_path / "started", tmp_path / "never")
        waits = [app.submit(work.square, n) for n in range(10)]
        job = app.start_job(work.square, [(1,), (2,)])
        work.wait_for(tmp_path / "started")
        os.kill(master_pid(cluster), signal.SIGKILL)
        for future in [runs, *waits, *job.futures]:
            error = future.exception(PATIENCE_S)
            assert isinstance(error, MasterLost)
            assert future.task in str(error)
            assert "none came back" in str(error)
        assert job.wait(PATIENCE_S)
        assert job.counts().failed == 2
        # ... and nothing is taken that nobody will do.
        with pytest.raises(MasterLost):
            app.submit(pow, 2, 3)
        with pytest.raises(MasterLost):
            app.map(work.square, [1])
        with pytest.raises(MasterLost):
            app.start_job(work.square, [(1,)])
        assert cluster.wait(PATIENCE_S)
        with pytest.raises(ClusterError, match="was killed by SIGKILL; its log ends:"):
            cluster.raise_if_failed()


def test_kill_9_of_workers_loses_nothing() -> None:
    with Cluster(workers=2) as cluster:
        app = cluster.application()
        killed = set()
        results = app.map(work.slow_square, range(ITEMS), timeout=PATIENCE_S)
        squares = []
        for number, (square, pid) in enumerate(results):
            squares.append(square)
            if number % 400 == 50 and pid not in killed:
                os.kill(pid, signal.SIGKILL)
                killed.add(pid)
        assert squares == SQUARES
        assert killed


def test_kill_9_of_the_template_loses_nothing() -> None:
    with Cluster(workers=2) as cluster:
        app = cluster.application()
        results = app.map(work.slow_square, range(ITEMS), timeout=PATIENCE_S)
        first = [next(results) for _ in range(50)]
        (template,) = psutil.Process(slave_pids(cluster)[0]).children()
        template.kill()
        assert [square for square, _ in first + list(results)] == SQUARES


def test_a_cluster_can_grow_and_shrink_at_work() -> None:
    def slots(cluster: Cluster) -> int:
        return sum(slave["slots"] for slave in cluster.status()["slaves"])

    with Cluster(workers=1, config=BRISK) as cluster:
        results = cluster.application().map(work.slow_square, range(ITEMS), timeout=PATIENCE_S)
        first = [next(results) for _ in range(10)]
        cluster.scale(4)
        eventually(lambda: slots(cluster) == 4, "three more")
        cluster.scale(2)
        assert cluster.workers == 2
        eventually(lambda: slots(cluster) == 2, "two fewer")
        assert [square for square, _ in first + list(results)] == SQUARES
        eventually(lambda: {slave["state"] for slave in cluster.status()["slaves"]} == {"active"}, "who left is gone")
        eventually(lambda: len(cluster._slaves) == len(slave_pids(cluster)), "and so are its processes")
        with pytest.raises(ConfigurationError, match="at least 1"):
            cluster.scale(0)


def begin_and_wait(log: Path, number: int, until: Path) -> tuple[int, int]:
    """Say in a file that this has begun; give the number, and who had it, when there is another file."""
    with open(log, "a") as file:
        file.write(f"{number}\n")
    work.wait_for(until)
    return number, os.getpid()


def begun(log: Path) -> list[int]:
    return sorted(int(line) for line in log.read_text().split()) if log.exists() else []


def test_nothing_begins_twice_when_a_cluster_shrinks(tmp_path: Path) -> None:
    log, go = tmp_path / "log", tmp_path / "go"
    with Cluster(workers=1, config=BRISK) as cluster:
        app = cluster.application()
        cluster.scale(4)
        eventually(lambda: sum(slave["slots"] for slave in cluster.status()["slaves"]) == 4, "all are there")
        job = app.start_job(begin_and_wait, [(log, number, go) for number in range(12)])
        eventually(lambda: len(begun(log)) == 4, "as many run as there are workers")
        old, early = set(slave_pids(cluster)), begun(log)
        cluster.scale(2)  # the three that came together leave, and one comes
        eventually(lambda: len(begun(log)) == 5, "the new one has begun a task, and the others still run theirs")
        states = sorted((slave["state"], slave["slots"]) for slave in cluster.status()["slaves"])
        assert states == [("active", 1), ("active", 1), ("draining", 0)]
        assert old <= set(slave_pids(cluster))
        seen: set[str] = set()

        def look() -> bool:
            seen.update(slave["state"] for slave in cluster.status()["slaves"])
            return not alive(old - set(slave_pids(cluster))) and len(slave_pids(cluster)) == 2

        go.touch()
        eventually(look, "who drained has left")
        assert seen <= {"active", "draining"}
        assert job.wait(PATIENCE_S)
        assert [future.result()[0] for future in job.futures] == list(range(12))
        assert begun(log) == list(range(12)), "none has begun twice"
        assert {job.futures[number].attempt for number in early} == {1}


def test_nothing_short_begins_twice_when_a_cluster_grows_and_shrinks(tmp_path: Path) -> None:
    log, go = tmp_path / "log", tmp_path / "go"
    go.touch()
    with Cluster(workers=2, config=BRISK) as cluster:
        job = cluster.application().start_job(begin_and_wait, [(log, number, go) for number in range(4000)])
        for workers in (5, 1, 4, 2):
            cluster.scale(workers)
            there = len(begun(log))
            eventually(lambda there=there: len(begun(log)) > there + 200 or job.wait(0), "it goes on")  # type: ignore[misc]
        assert job.wait(PATIENCE_S)
        assert begun(log) == list(range(4000))


def test_a_cluster_that_is_closed_does_not_wait_for_those_that_drain(tmp_path: Path) -> None:
    log = tmp_path / "log"
    before = descendants(os.getpid())
    with Cluster(workers=1, config=BRISK) as cluster:
        cluster.scale(3)
        eventually(lambda: sum(slave["slots"] for slave in cluster.status()["slaves"]) == 3, "all are there")
        cluster.application().start_job(begin_and_wait, [(log, number, tmp_path / "never") for number in range(3)])
        eventually(lambda: len(begun(log)) == 3, "all run")
        cluster.scale(1)
        eventually(lambda: "draining" in {slave["state"] for slave in cluster.status()["slaves"]}, "one drains")
        processes = descendants(os.getpid()) - before
        started = time.monotonic()
    assert time.monotonic() - started < GONE_S
    assert not alive(processes)


def test_a_slave_that_has_not_joined_yet_can_be_told_to_leave() -> None:
    with Cluster(workers=1, config=BRISK) as cluster:
        cluster.scale(3)
        cluster.scale(1)
        eventually(lambda: len(cluster._slaves) == 1, "the second one has gone")
        assert cluster.application().submit(pow, 2, 3).result(PATIENCE_S) == 8
        assert [slave["state"] for slave in cluster.status()["slaves"]] == ["active"]


def test_a_name_that_a_running_cluster_has_is_refused() -> None:
    before = descendants(os.getpid())
    with Cluster(workers=1, name="taken") as cluster:
        assert cluster.application().submit(pow, 2, 3).result(PATIENCE_S) == 8  # all its processes are there
        processes = descendants(os.getpid())
        with pytest.raises(ConfigurationError) as caught:
            Cluster(workers=1, name="taken").start()
        for said in ("'taken'", str(master_pid(cluster)), "concurrent_nb.connect('taken')", "choose another name"):
            assert said in str(caught.value)
        assert descendants(os.getpid()) <= processes, "nothing has been started"
        with concurrent_nb.connect("taken") as app:
            assert app.submit(pow, 2, 3).result(PATIENCE_S) == 8
        # A frozen master has its name as well.
        os.kill(master_pid(cluster), signal.SIGSTOP)
        try:
            with pytest.raises(ConfigurationError, match="'taken' is running"):
                Cluster(workers=1, name="taken").start()
        finally:
            os.kill(master_pid(cluster), signal.SIGCONT)
        assert cluster.connection_file is not None
        # Nobody has the name of a master that was killed, although its file is there and its owner has not looked.
        os.kill(master_pid(cluster), signal.SIGKILL)
        with Cluster(workers=1, name="taken") as other:
            assert other.application().submit(pow, 2, 3).result(PATIENCE_S) == 8
            cluster.close()
            assert other.connection_file is not None
            assert other.connection_file.exists()
    assert descendants(os.getpid()) <= before


def test_of_clusters_that_start_with_one_name_at_the_same_time_one_gets_it() -> None:
    clusters = [Cluster(workers=1, name="wanted") for _ in range(3)]
    errors = []

    def start(cluster: Cluster) -> None:
        try:
            cluster.start()
        except ConfigurationError as error:
            errors.append(str(error))

    threads = [threading.Thread(target=start, args=(cluster,)) for cluster in clusters]
    try:
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(PATIENCE_S)
        assert len(errors) == 2, errors
        assert all("'wanted' is running" in error for error in errors)
        with concurrent_nb.connect("wanted") as app:
            assert app.submit(pow, 2, 3).result(PATIENCE_S) == 8
    finally:
        for cluster in clusters:
            cluster.close()


TASK_FUNCTIONS = """
    import concurrent_nb

    @concurrent_nb.task
    def cube(x):
        "Of a number."
        return x ** 3

    if __name__ == "__main__":
        print(cube(2), cube.__name__, cube.__doc__, cube)
        print(cube.submit(3).result(), cube.map([1, 2], timeout_s=20).results())
"""


def test_task_functions_need_no_cluster_of_the_user_s(tmp_path: Path) -> None:
    script = tmp_path / "script.py"
    script.write_text(textwrap.dedent(TASK_FUNCTIONS))
    ended = subprocess.run([sys.executable, str(script)], capture_output=True, text=True, timeout=PATIENCE_S)
    assert ended.stdout == "8 cube Of a number. <task function cube>\n27 [1, 8]\n", ended.stderr
    assert ended.stderr == ""


def test_a_slave_that_is_frozen_holds_nobody_up_and_is_back_when_it_thaws() -> None:
    with Cluster(workers=1, config=BRISK) as cluster:
        app = cluster.application()
        assert cluster.connection_file is not None
        arguments = ("slave", "--connect", str(cluster.connection_file), "--workers", "1", "--name", "frozen")
        with running(*arguments, says="has joined") as other:
            try:
                results = app.map(work.slow_square, range(ITEMS), timeout=PATIENCE_S)
                first = [next(results) for _ in range(50)]
                frozen = [other.pid, *descendants(other.pid)]
                for pid in frozen:
                    os.kill(pid, signal.SIGSTOP)
                assert [square for square, _ in first + list(results)] == SQUARES
                eventually(lambda: len(cluster.status()["slaves"]) == 1, "the frozen slave is given up")
            finally:
                for pid in frozen:
                    with contextlib.suppress(ProcessLookupError):  # one that was about to end
                        os.kill(pid, signal.SIGCONT)
            # What it comes back with is old, and delivered to nobody; then it works again.
            eventually(lambda: len(cluster.status()["slaves"]) == 2, "the slave is back")
            eventually(lambda: len({pid for _, pid in app.map(work.slow_square, range(200))}) == 2, "it works")
            assert squares_of(app, 300) == SQUARES[:300]


BROKEN = """
import os, sys
if "--fork-server" in sys.orig_argv:
    os.write(2, b"this environment is broken: libfoo.so.3 is missing\\n")
    os._exit(1)
"""


def test_a_slave_that_cannot_start_workers_ends_tasks_with_a_clear_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("concurrent_nb.nodes.node_processes.RESTARTS", 1)  # five are more of the same
    (tmp_path / "sitecustomize.py").write_text(BROKEN)
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(tmp_path), os.environ.get("PYTHONPATH", "")]))
    with Cluster(workers=1) as cluster:
        app = cluster.application()
        error = app.submit(pow, 2, 3).exception(PATIENCE_S)
        assert isinstance(error, ClusterStartFailed)
        assert "cannot keep workers alive" in str(error)
        assert "libfoo.so.3 is missing" in str(error)
        with pytest.raises(ClusterStartFailed, match=r"libfoo\.so\.3 is missing"):
            app.submit(pow, 2, 3)
        with pytest.raises(ClusterStartFailed, match=r"libfoo\.so\.3 is missing"):
            cluster.application()


def test_a_slave_can_be_awaited() -> None:
    with Cluster(workers=1) as cluster:
        assert cluster.wait_for_slave(PATIENCE_S)
        assert cluster.wait_for_slave(0)
        eventually(lambda: len(cluster.status()["slaves"]) == 1, "the status has it")
    with pytest.raises(ClusterError, match="has been closed"):
        cluster.wait_for_slave(0)


def test_a_notebook_that_connects_again_to_its_cluster_stays_connected(cluster: Cluster, tmp_path: Path) -> None:
    assert cluster.connection_file is not None
    copy = tmp_path / "concurrent_nb-copy.json"
    shutil.copy2(cluster.connection_file, copy)
    current = CurrentCluster()
    current.connect(cluster.name)
    try:
        app = current.current_application
        for again in (cluster.name, str(cluster.connection_file), str(copy)):
            assert current.connect(again).startswith(f"this notebook already uses cluster {cluster.name} (")
        assert current.current_application is app
        with pytest.raises(ConfigurationError, match=r"already has cluster .*; %concurrent stop leaves it"):
            current.connect("another")
    finally:
        current.stop()


def test_what_has_not_ended_is_known_and_can_be_cancelled(cluster: Cluster) -> None:
    app = cluster.application()
    assert (app.open_submits(), app.open_jobs()) == ([], [])
    futures = [app.submit(time.sleep, 600), app.options(name="named").submit(time.sleep, 600)]
    app.renew_submits()  # as after many submits
    futures.append(app.submit(time.sleep, 600))
    job = app.start_job(time.sleep, [(600,)])
    eventually(lambda: len(app.open_submits()) == 3, "all are sent")
    assert app.open_jobs() == [job]
    assert app.cancel_submits() == 3
    job.cancel()
    eventually(lambda: not app.open_submits() and not app.open_jobs(), "all have ended")
    assert all(future.cancelled() for future in futures)


# ------------------------------------------------------------------------------------------------------- configuration


def test_two_clusters_at_once_do_not_know_each_other() -> None:
    with Cluster(workers=1) as one, Cluster(workers=1) as two:
        first, second = one.application(), two.application()
        a, b = first.submit(work.pid_of_worker), second.submit(work.pid_of_worker)
        assert a.result(PATIENCE_S) != b.result(PATIENCE_S)
        assert slave_pids(one) != slave_pids(two)
        one.close()
        assert second.submit(pow, 2, 3).result(PATIENCE_S) == 8


@pytest.mark.parametrize("strategy", ["PushBest", "PullRoundRobin", "Stealing", "locality"])
def test_the_strategy_is_chosen_by_configuration(strategy: str) -> None:
    with Cluster(workers=2, config={"MasterNode": {"strategy": strategy}}) as cluster:
        assert squares_of(cluster.application(), 300) == SQUARES[:300]


def test_each_job_may_ask_for_a_strategy(cluster: Cluster) -> None:
    app = cluster.application()
    jobs = [
        app.start_job(work.square, [(number,) for number in range(300)], strategy=strategy)
        for strategy in (*STRATEGIES, None)
    ]
    assert [job.results(PATIENCE_S) for job in jobs] == [SQUARES[:300]] * len(jobs)


def test_a_strategy_that_does_not_exist_is_refused_at_once_and_the_others_are_listed(cluster: Cluster) -> None:
    with pytest.raises(ConfigurationError, match="'fair', it must be one of pull_round_robin, push_best, stealing"):
        cluster.application().start_job(work.square, [(1,)], strategy="fair")


@pytest.mark.parametrize(
    ("config", "says"),
    [
        pytest.param({"MasterNode": {"strategy": "Fair"}}, ["Fair", "PullRoundRobin", "locality"], id="strategy"),
        pytest.param({"MasterNode": {"interval_s": -1}}, ["interval_s", "-1"], id="out of range"),
        pytest.param({"MasterNode": {"addresses": ["nowhere.invalid"]}}, ["nowhere.invalid"], id="address"),
        pytest.param({"SlaveNode": {"grace_s": "long"}}, ["grace_s", "long"], id="wrong type"),
        pytest.param({"SlaveNode": {"workers": 5000}}, ["workers", "5000"], id="too many workers"),
        pytest.param({"MasterNode": {"strategi": "PushBest"}}, ["strategi"], id="unknown item"),
    ],
)
def test_a_configuration_that_makes_no_sense_is_refused_with_a_reason(config: Any, says: list[str]) -> None:
    with pytest.raises(ClusterStartFailed) as caught:
        Cluster(config=config).start()
    assert all(word in str(caught.value) for word in says), str(caught.value)
    assert "Traceback" not in str(caught.value)


def test_a_configuration_file_holds_for_every_node(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("JUPYTER_CONFIG_DIR", str(tmp_path))
    (tmp_path / "concurrent_nb_config.py").write_text("c.SlaveNode.workers = 3\nc.MasterNode.strategy = 'PushBest'\n")
    with Cluster() as cluster:
        cluster.application().submit(pow, 2, 3).result(PATIENCE_S)
        assert cluster.status()["slaves"][0]["slots"] == 3
    (tmp_path / "concurrent_nb_config.py").write_text("c.MasterNod.strategy = 'PushBest'\n")
    with pytest.raises(ClusterStartFailed, match=r"'MasterNod'.*did you mean MasterNode\?"):
        Cluster(workers=1).start()
    (tmp_path / "concurrent_nb_config.py").write_text("c.SlaveNode.workers = = 3\n")
    with pytest.raises(ClusterStartFailed, match=r"concurrent_nb_config\.py"):
        Cluster(workers=1).start()


def test_workers_may_be_fresh_interpreters_instead_of_forks() -> None:
    with Cluster(workers=2, config={"SlaveNode": {"spawn": True}}) as cluster:
        app = cluster.application()
        assert squares_of(app, 300) == SQUARES[:300]
        (slave,) = slave_pids(cluster)
        workers = {process.pid for process in psutil.Process(slave).children()}
        assert app.submit(work.pid_of_worker).result(PATIENCE_S) in workers
        os.kill(app.submit(work.pid_of_worker).result(PATIENCE_S), signal.SIGKILL)
        assert squares_of(app, 300) == SQUARES[:300]


def test_what_its_owner_can_import_its_workers_can(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tmp_path / "a föl der: with 'quotes\" and; semicolon"
    folder.mkdir()
    (folder / "of_a_folder.py").write_text("def answer(): return 'folder'\n")
    with zipfile.ZipFile(tmp_path / "packed.zip", "w") as packed:
        packed.writestr("of_a_zip.py", "def answer(): return 'zip'\n")
    (tmp_path / "of_here.py").write_text("def answer(): return 'here'\n")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", ["", str(folder), *sys.path, str(tmp_path / "packed.zip")])
    modules = [__import__(name) for name in ("of_a_folder", "of_a_zip", "of_here")]
    try:
        with Cluster(workers=1) as cluster:
            futures = [cluster.application().submit(module.answer) for module in modules]
            assert [future.result(PATIENCE_S) for future in futures] == ["folder", "zip", "here"]
    finally:
        for module in modules:
            del sys.modules[module.__name__]


@pytest.mark.parametrize("workers", [1, 2])
def test_numeric_libraries_get_a_fair_share_of_the_cores(workers: int, monkeypatch: pytest.MonkeyPatch) -> None:
    for library in ("OMP", "OPENBLAS"):
        monkeypatch.delenv(f"{library}_NUM_THREADS", raising=False)
    monkeypatch.setenv("MKL_NUM_THREADS", "7")
    with Cluster(workers=workers) as cluster:
        app = cluster.application()
        share = str(max(1, CORES // workers))
        assert app.submit(work.environment, "OMP_NUM_THREADS").result(PATIENCE_S) == share
        assert app.submit(work.environment, "OPENBLAS_NUM_THREADS").result(PATIENCE_S) == share
        # What the user has said himself holds.
        assert app.submit(work.environment, "MKL_NUM_THREADS").result(PATIENCE_S) == "7"


# ----------------------------------------------------------------------------------------------- output and whole jobs


cluster = fixtures.shared_cluster(workers=2)


@pytest.fixture(scope="module")
def app(cluster: Cluster) -> ApplicationNode:
    return cluster.application()


def test_what_tasks_print_comes_out_here(app: ApplicationNode, capsys: pytest.CaptureFixture[str]) -> None:
    app.submit(work.say, "one line\nand another: ü").result(PATIENCE_S)
    app.submit(work.say, "to the other stream", to_stderr=True).result(PATIENCE_S)
    app.submit(os.write, 1, b"past Python\n").result(PATIENCE_S)
    app.submit(os.system, "echo of a child").result(PATIENCE_S)
    out, err = capsys.readouterr()
    assert out == "one line\nand another: ü\npast Python\nof a child\n"
    assert err == "to the other stream\n"


def test_what_a_task_printed_is_out_before_its_future_ends_and_nobody_elses_is_mixed_in(
    app: ApplicationNode, capsys: pytest.CaptureFixture[str]
) -> None:
    for number in range(50):
        app.submit(work.say, f"line {number}").result(PATIENCE_S)
        assert capsys.readouterr().out == f"line {number}\n"
    list(app.map(work.say, [f"<{number}>" * 100 for number in range(50)]))
    lines = capsys.readouterr().out.splitlines()
    assert sorted(lines) == sorted(f"<{number}>" * 100 for number in range(50))


def tell(n: int) -> int:
    for step in range(5):
        concurrent_nb.report(step / 4, f"step {step}")
    concurrent_nb.publish({"n": n})
    concurrent_nb.display(n)
    return n


def test_a_watched_job_collects_what_its_tasks_say(app: ApplicationNode) -> None:
    job = app.start_job(tell, [(0,), (1,)], watched=True)
    assert job.wait(PATIENCE_S)
    notes: dict[int, list[Any]] = {0: [], 1: []}
    for note in job.take_notes():
        notes[note.index].append(note.content)
    for n, (first, published, last) in notes.items():
        assert (first, last) == (ProgressReport(0.0, "step 0"), ProgressReport(1.0, "step 4"))
        assert published.value == {"n": n}
    assert sorted(piece.index for piece in job.take_output() if isinstance(piece, TaskDisplay)) == [0, 1]
    ended = [event for event in job.take_events() if event.kind == "ended"]
    assert sorted(event.index for event in ended) == [0, 1]
    assert all(event.slave and event.worker and event.status is Status.OK for event in ended)


def test_a_large_note_arrives_whole(app: ApplicationNode) -> None:
    job = app.start_job(concurrent_nb.publish, [(bytes(range(256)) * 20_000,)], watched=True)
    assert job.wait(PATIENCE_S)
    [note] = job.take_notes()
    assert isinstance(note.content, Publication)
    assert note.content.value == bytes(range(256)) * 20_000


def test_a_task_that_talks_can_be_stopped_at_any_moment(app: ApplicationNode) -> None:
    for _ in range(5):
        job = app.start_job(work.publish_for_ever, [(), ()])
        eventually(lambda job=job: job.counts().running > 0, "it talks")  # type: ignore[misc]
        job.cancel()
        assert job.wait(PATIENCE_S)
        assert all(future.cancelled() for future in job.futures)
        assert list(app.map(work.square, range(20))) == [n * n for n in range(20)]


def test_a_task_s_threads_may_talk_all_at_once(app: ApplicationNode) -> None:
    def chorus() -> None:
        def sing(voice: int) -> None:
            for n in range(50):
                concurrent_nb.publish((voice, n))

        threads = [threading.Thread(target=sing, args=(voice,)) for voice in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()

    job = app.start_job(chorus, [()], watched=True)
    assert job.wait(PATIENCE_S)
    heard = [note.content.value for note in job.take_notes() if isinstance(note.content, Publication)]
    assert sorted(heard) == [(voice, n) for voice in range(8) for n in range(50)]


def test_a_job_collects_the_output_of_its_tasks_by_task(
    app: ApplicationNode, capsys: pytest.CaptureFixture[str]
) -> None:
    job = app.start_job(work.say, [("zero",), ("one",), ("two", True)], name="talkers")
    assert job.wait(PATIENCE_S)
    pieces = job.take_output()
    assert sorted(pieces, key=lambda piece: piece.index) == [
        OutputPiece(0, 1, "zero\n"),
        OutputPiece(1, 1, "one\n"),
        OutputPiece(2, 2, "two\n"),
    ]
    assert job.take_output() == []
    assert capsys.readouterr() == ("", "")


def test_a_job_counts_and_keeps_the_order_of_its_futures(app: ApplicationNode) -> None:
    job = app.start_job(work.square, [(n,) for n in range(100)], name="squares")
    assert job.wait(PATIENCE_S)
    assert [future.result() for future in job.futures] == SQUARES[:100]
    assert job.counts() == Counts(waiting=0, running=0, done=100, failed=0, cancelled=0)
    assert job.counts().total == 100
    assert job.slaves == {job.futures[0].slave}
    assert job.hit is None
    assert job.first_error is None
    assert "squares" in repr(job)
    assert "100 of 100" in repr(job)


def test_a_job_of_no_tasks_is_over_at_once(app: ApplicationNode) -> None:
    job = app.start_job(work.square, [])
    assert job.wait(0)
    assert job.counts().total == 0


def test_a_job_that_runs_says_so_and_waiting_may_time_out(app: ApplicationNode, tmp_path: Path) -> None:
    go = tmp_path / "go"
    job = app.start_job(work.start_and_wait, [(tmp_path / f"{n}", go) for n in range(10)])
    eventually(lambda: job.counts() == Counts(8, 2, 0, 0, 0), "two tasks run and eight wait")
    assert not job.wait(0.05)
    go.touch()
    assert job.wait(PATIENCE_S)
    assert job.counts() == Counts(0, 0, 10, 0, 0)


def find(n: int) -> int | Hit:
    """Find what 40 squares to, as a function of a search does."""
    time.sleep(0.002)
    return Hit(n * n) if n == 40 else n


def test_until_ends_the_job_at_the_first_hit(app: ApplicationNode) -> None:
    job = app.start_job(find, [(n,) for n in range(5000)], until=True)
    assert job.wait(PATIENCE_S)
    assert job.hit is job.futures[40]
    assert job.hit.result() == 1600
    assert job.hit.status is Status.HIT
    counts = job.counts()
    assert counts.done >= 1
    assert counts.cancelled > 4000
    assert counts.failed == 0
    assert counts.total == 5000
    assert job.futures[-1].cancelled()


def test_a_hit_is_a_plain_result_where_nobody_searches(app: ApplicationNode) -> None:
    assert app.submit(find, 40).result(PATIENCE_S) == 1600
    job = app.start_job(find, [(n,) for n in range(39, 60)])
    assert job.wait(PATIENCE_S)
    assert job.counts().done == 21


def fail_at(n: int, bad: int) -> int:
    time.sleep(0.002)
    if n == bad:
        raise ValueError(f"{n} is bad")
    return n


def test_the_first_error_ends_a_job_if_so_wanted(app: ApplicationNode) -> None:
    job = app.start_job(fail_at, [(n, 40) for n in range(5000)], stop_on_error=True)
    assert job.wait(PATIENCE_S)
    assert job.first_error is job.futures[40]
    assert str(job.first_error.exception()) == "40 is bad"
    counts = job.counts()
    assert counts.failed == 1
    assert counts.cancelled > 4000
    assert job.futures[0].result() == 0


def test_an_error_ends_nothing_else_if_not(app: ApplicationNode) -> None:
    job = app.start_job(fail_at, [(n, 40) for n in range(200)])
    assert job.wait(PATIENCE_S)
    assert job.counts() == Counts(0, 0, 199, 1, 0)


def test_retries_run_a_failed_task_again(app: ApplicationNode, tmp_path: Path) -> None:
    job = app.start_job(work.fail_until, [(tmp_path / "third", 3), (tmp_path / "never", 99)], retries=2)
    assert job.wait(PATIENCE_S)
    assert job.futures[0].result() == 3
    assert job.futures[0].attempt == 3
    assert str(job.futures[1].exception()) == "call 3 of 99"
    assert job.counts() == Counts(0, 0, 1, 1, 0)


def test_a_time_limit_ends_the_task_and_nothing_else(app: ApplicationNode, tmp_path: Path) -> None:
    (tmp_path / "now").touch()
    calls = [(tmp_path / "now",), (tmp_path / "never",), (tmp_path / "now",)]
    job = app.start_job(work.wait_for, calls, timeout_s=0.3)
    assert job.wait(PATIENCE_S)
    error = job.futures[1].exception()
    assert isinstance(error, TaskTimeout)
    assert isinstance(error, TimeoutError)
    assert "0.3" in str(error)
    assert error.slave
    assert error.task == job.futures[1].task
    assert job.counts() == Counts(0, 0, 2, 1, 0)


def test_a_cancelled_job_stops_what_runs(app: ApplicationNode, tmp_path: Path) -> None:
    marks = [tmp_path / f"{n}" for n in range(10)]
    job = app.start_job(work.start_and_wait, [(mark, tmp_path / "never") for mark in marks])
    eventually(lambda: job.counts().running == 2, "two tasks run")
    job.cancel()
    assert job.wait(PATIENCE_S)
    assert job.counts() == Counts(0, 0, 0, 0, 10)
    assert all(future.cancelled() for future in job.futures)
    assert sum(mark.exists() for mark in marks) == 2
    assert app.submit(pow, 2, 3).result(PATIENCE_S) == 8
    job.cancel()  # once more does no harm


def test_jobs_of_many_threads_at_once(app: ApplicationNode) -> None:
    sums = []

    def use() -> None:
        job = app.start_job(work.square, [(n,) for n in range(200)])
        assert job.wait(PATIENCE_S)
        sums.append(sum(future.result() for future in job.futures))

    threads = [threading.Thread(target=use) for _ in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(PATIENCE_S)
    assert sums == [sum(SQUARES[:200])] * 6


def test_nothing_is_kept_of_jobs_that_are_over(cluster: Cluster, app: ApplicationNode) -> None:
    for _ in range(20):
        job = app.start_job(work.square, [(n,) for n in range(20)])
        assert job.wait(PATIENCE_S)
        assert sum(app.map(work.square, range(20))) == sum(SQUARES[:20])

    def is_empty() -> bool:
        tasks = cluster.status()["tasks"]
        return {**tasks, "jobs": 0} == {"jobs": 0, "waiting": 0, "blocked": 0, "assigned": 0, "kept": 0} and tasks[
            "jobs"
        ] <= 1

    eventually(is_empty, "the master has forgotten all jobs but that of single submits")
    assert json.dumps(cluster.status())
