"""Task systems on real clusters: they end well, early, badly or never, and nobody else notices; killed or not."""

import os
import signal
from collections.abc import Iterator
from concurrent.futures import CancelledError
from pathlib import Path
from typing import Any

import msgspec
import psutil
import pytest

import concurrent_nb
from concurrent_nb import ApplicationNode, Cluster, ITaskSystem
from concurrent_nb.errors import AccessRefused, ConfigurationError, NotPicklable, PoisonTask, SystemStalled
from concurrent_nb.nodes.common.system_access import restricted_access
from concurrent_nb.shipping.serialization.pickles import dumps
from concurrent_nb.transport import connection_file, keys
from tests import fixtures, systems, work
from tests.clusters import (
    BRISK,
    alive,
    eventually,
    master_pid,
    nothing_left_but_workers,
    slave_pids,
    workers_of,
)
from tests.work import PATIENCE_S, wait_for

cluster = fixtures.shared_cluster(config=BRISK)


@pytest.fixture(autouse=True)
def _nothing_left(cluster: Cluster) -> Iterator[None]:
    with nothing_left_but_workers(cluster):
        yield
        eventually(lambda: is_quiet(cluster), "no host is left, and no task of one")


def is_quiet(cluster: Cluster) -> bool:
    status = cluster.status()
    return not any(status["tasks"][what] for what in ("waiting", "assigned")) and len(status["clients"]) == 1


def hosts_of(cluster: Cluster) -> list[str]:
    return [client["name"] for client in cluster.status()["clients"] if client["name"].startswith("system ")]


def sum_of_squares(count: int) -> int:
    return sum(n * n for n in range(count))


# ------------------------------------------------------------------------------------------------------- good ends


def test_a_system_gives_its_result_and_counts(cluster: Cluster) -> None:
    run = cluster.application().push_tasksystem(systems.Squares(1000))
    assert run.result(PATIENCE_S) == sum_of_squares(1000)
    progress = run.progress()
    numbers = progress["done"], progress["unfinished"]
    assert (progress["stage"], *numbers, progress["exhausted"]) == ("gathering", 1000, 0, True)
    assert run.counts().done == run.counts().total == 1000
    assert (run.stats.name, run.stats.tasks, run.stats.done) == ("Squares", 1000, 1000)
    assert run.wait(0)


def test_one_of_two_phases(cluster: Cluster) -> None:
    run = cluster.application().push_tasksystem(systems.TwoPhases(200))
    assert run.result(PATIENCE_S) == sum(n**4 for n in range(200))
    phases = [(phase["number"], phase["pushed"], phase["done"]) for phase in run.progress()["phases"]]
    assert phases == [(1, 200, 200), (2, 200, 200)]


def test_one_that_ends_early(cluster: Cluster) -> None:
    found = cluster.application().push_tasksystem(systems.FirstAbove(250_000)).result(PATIENCE_S)
    assert found["found"] > 250_000
    assert found["cancelled"] > 0
    assert found["done"] + found["cancelled"] == found["pushed"]


def test_one_without_tasks(cluster: Cluster) -> None:
    assert cluster.application().push_tasksystem(systems.Squares(0)).result(PATIENCE_S) == 0


def test_tasks_clean_up_before_the_result_travels_and_know_where_they_were(cluster: Cluster, tmp_path: Path) -> None:
    app = cluster.application()
    system_id, ended = app.push_tasksystem(systems.Tidies(tmp_path)).result(PATIENCE_S)
    (slave,) = [slave["name"] for slave in cluster.status()["slaves"]]
    for number, (name, result, error) in enumerate((("good", "good", "NoneType"), ("bad", None, "ValueError"))):
        ids = (f"{system_id}/{number}", system_id, app.name, slave)
        assert ended[name] == ((result, error, ["called", "cleaned"]), ids)


def test_what_it_logs_and_prints_comes_to_who_waits(cluster: Cluster, capfd: pytest.CaptureFixture[str]) -> None:
    run = cluster.application().push_tasksystem(systems.Chatty(3, systems.Says))
    assert run.result(PATIENCE_S) == [slave["name"] for slave in cluster.status()["slaves"]]
    said = capfd.readouterr().out.splitlines()
    assert said[:3] == ["prepared", "logged 1", "warning: careful"]
    assert sorted(said[3:-1]) == ["task 0 says", "task 1 says", "task 2 says"]
    assert said[-1] == "printed"


def test_with_one_worker_the_host_takes_no_slot(tmp_path: Path) -> None:
    with Cluster(workers=1) as small:
        app = small.application()
        runs = [app.push_tasksystem(systems.Squares(50)) for _ in range(3)]
        assert [run.result(PATIENCE_S) for run in runs] == [sum_of_squares(50)] * 3


def test_hosts_import_what_they_run_in_once_for_all(cluster: Cluster) -> None:
    assert cluster.application().push_tasksystem(systems.Shares(0)).result(PATIENCE_S)


# ------------------------------------------------------------------------------------------- cells that may be systems


@pytest.fixture
def app(cluster: Cluster) -> Iterator[ApplicationNode]:
    """An application whose thread for callbacks goes with it."""
    assert cluster.connection_file is not None
    with concurrent_nb.connect(cluster.connection_file) as app:
        yield app


def test_a_cell_that_gives_a_system_gives_its_result(
    app: ApplicationNode, cluster: Cluster, capfd: pytest.CaptureFixture[str]
) -> None:
    run = app.start_cell(lambda: systems.Chatty(3, systems.Says), name="maybe", prints=True)
    assert run.result(PATIENCE_S) == [slave["name"] for slave in cluster.status()["slaves"]]
    assert (run.name, run.progress()["done"], run.counts().done, run.counts().total) == ("maybe", 3, 3, 3)
    assert "logged 1" in capfd.readouterr().out
    assert run.results() == [run.result()]
    assert (run.stats.name, run.stats.tasks, run.stats.done, run.stats.no_times) == ("maybe", 3, 3, "")


def test_a_cell_that_gives_anything_else_is_a_job_of_one_task(app: ApplicationNode) -> None:
    run = app.start_cell(lambda: 6 * 7)
    assert run.result(PATIENCE_S) == 42
    assert (run.is_system, run.counts().done, run.counts().total) == (False, 1, 1)
    failing = app.start_cell(lambda: 1 // 0)
    with pytest.raises(ZeroDivisionError):
        failing.result(PATIENCE_S)


def test_a_systems_own_result_may_be_a_system_which_is_not_run(app: ApplicationNode) -> None:
    class Outer(ITaskSystem):
        def generate_tasks(self, master: Any) -> Any:
            return []

        def gather_result(self, master: Any) -> Any:
            return systems.Squares(3)

    inner = app.start_cell(Outer).result(PATIENCE_S)
    assert isinstance(inner, systems.Squares)


def test_a_cell_is_stopped_as_a_task_and_as_a_system(app: ApplicationNode, tmp_path: Path) -> None:
    task = app.start_cell(lambda: work.start_and_wait(tmp_path / "task", tmp_path / "never"))
    system = app.start_cell(lambda: systems.Endless(tmp_path / "system"))
    wait_for(tmp_path / "task")
    wait_for(tmp_path / "system")
    for run in (task, system):
        run.cancel()
        assert run.wait(PATIENCE_S)
        with pytest.raises(CancelledError):
            run.result()


def test_a_system_that_comes_after_shutdown_is_not_run(app: ApplicationNode, tmp_path: Path) -> None:
    def cell() -> ITaskSystem:
        work.start_and_wait(tmp_path / "began", tmp_path / "go")
        return systems.Squares(3)

    run = app.start_cell(cell)
    wait_for(tmp_path / "began")
    app.shutdown(wait=False)
    (tmp_path / "go").touch()
    app.shutdown()
    with pytest.raises(RuntimeError, match="shutdown"):
        run.result(PATIENCE_S)


# -------------------------------------------------------------------------------------------------------- bad ends


@pytest.mark.parametrize(
    "method",
    [
        *("init_system", "generate_tasks", "_generate", "task_finished", "is_complete", "gather_result"),
        *("__call__", "clean_up", "finished"),
    ],
)
def test_what_a_method_raises_is_raised_here_and_ends_in_its_own_lines(cluster: Cluster, method: str) -> None:
    run = cluster.application().push_tasksystem(systems.Fails(method))
    with pytest.raises(work.Trouble, match=f"in {method}") as caught:
        run.result(PATIENCE_S)
    assert caught.value.code == 3
    text = str(caught.value.__cause__)
    files = [line.split('"')[1] for line in text.splitlines() if line.startswith("  File ")]
    assert {Path(file).name for file in files} == {"systems.py"}
    assert f"Trouble: ('in {method}', 3)" in text
    assert run.first_error is not None
    # Nobody else has noticed.
    assert cluster.application().submit(pow, 2, 3).result(PATIENCE_S) == 8


def test_an_error_that_nobody_takes_is_shown_as_the_task_raised_it(cluster: Cluster) -> None:
    class Plain(ITaskSystem):
        def generate_tasks(self, master: Any) -> Any:
            return [systems.FailsToo("__call__")]

    with pytest.raises(work.Trouble) as caught:
        cluster.application().push_tasksystem(Plain()).result(PATIENCE_S)
    text = str(caught.value.__cause__)
    assert text.count("Traceback") == 1
    assert 'raise work.Trouble("in __call__", 3)' in text
    (slave,) = [slave["name"] for slave in cluster.status()["slaves"]]
    assert text.rstrip('"\n').endswith(f"task 0 of the system, on slave {slave}")


def test_one_that_can_never_be_complete_says_so(cluster: Cluster) -> None:
    class Stalls(systems.Squares):
        def is_complete(self, master: Any) -> bool:
            return False

    with pytest.raises(SystemStalled, match="Stalls has no task left and is not complete"):
        cluster.application().push_tasksystem(Stalls(3)).result(PATIENCE_S)


def test_what_cannot_be_sent_is_refused_before_anything_starts(cluster: Cluster) -> None:
    app = cluster.application()
    system = systems.Squares(3)
    with open(os.devnull) as file:
        system.file = file  # type: ignore[attr-defined]
        with pytest.raises(NotPicklable, match=r"Squares uses Squares\.file, an open file"):
            app.push_tasksystem(system)
    with pytest.raises(ConfigurationError, match="a task system is an ITaskSystem, not 3"):
        app.push_tasksystem(3)  # type: ignore[arg-type]
    with pytest.raises(ConfigurationError, match=r"not the class Squares: did you mean Squares\(\)\?"):
        app.push_tasksystem(systems.Squares)  # type: ignore[arg-type]
    with pytest.raises(ConfigurationError, match=r"a concurrent_nb.Task, not the class Task: did you mean Task\(\)\?"):
        app.push_task(concurrent_nb.Task)  # type: ignore[arg-type]
    with pytest.raises(ConfigurationError, match=r"a concurrent_nb.Task, not the class int$"):
        app.push_tasks([int])  # type: ignore[list-item]


def test_a_task_that_cannot_be_sent_is_an_error_of_that_task(cluster: Cluster) -> None:
    class Mixed(ITaskSystem):
        def init_system(self, master: Any) -> None:
            self.ended: list[str] = []

        def generate_tasks(self, master: Any) -> Any:
            bad = systems.Square(1)
            bad.n = work.CannotGo()  # type: ignore[assignment]
            return [bad, systems.Square(2)]

        def task_finished(self, master: Any, task: Any, result: Any, error: Any) -> None:
            self.ended.append(str(result if error is None else error))

        def gather_result(self, master: Any) -> Any:
            return sorted(self.ended)

    four, why = cluster.application().push_tasksystem(Mixed()).result(PATIENCE_S)
    assert four == "4"
    assert "cannot be sent: Square uses Square.n, a tests.work.CannotGo: it cannot be pickled (TypeError: this" in why


# --------------------------------------------------------------------------------------------------------- stopped


def test_one_that_never_completes_is_stopped_with_its_tasks(cluster: Cluster, tmp_path: Path) -> None:
    started = tmp_path / "started"
    run = cluster.application().push_tasksystem(systems.Endless(started))
    holder = int(wait_for(wait_for(started).with_suffix(".pid")).read_text())
    assert holder in alive({holder})
    run.cancel()
    assert run.wait(PATIENCE_S)
    with pytest.raises(CancelledError):
        run.result()
    eventually(lambda: is_quiet(cluster), "its tasks are cancelled", within_s=5)
    counts = run.counts()
    assert (counts.waiting, counts.running) == (0, 0)


@pytest.mark.parametrize("kind", [systems.Floods, systems.Hangs])
def test_one_that_floods_or_hangs_is_stopped_all_the_same(
    cluster: Cluster, tmp_path: Path, kind: type[systems.Floods] | type[systems.Hangs]
) -> None:
    run = cluster.application().push_tasksystem(kind(tmp_path / "started"))
    wait_for(tmp_path / "started")
    assert cluster.application().submit(pow, 2, 3).result(PATIENCE_S) == 8
    run.cancel()
    assert run.wait(PATIENCE_S)


def test_when_its_host_is_killed_its_tasks_are_cancelled_and_it_is_run_again(cluster: Cluster, tmp_path: Path) -> None:
    started = tmp_path / "started"
    pid_file = started.with_suffix(".pid")
    run = cluster.application().push_tasksystem(systems.Endless(started))
    host = int(wait_for(started).read_text())
    wait_for(pid_file)
    started.unlink()
    os.kill(host, signal.SIGKILL)
    wait_for(started)
    eventually(lambda: len(pid_file.read_text().split()) == 2, "a task of the second life holds a worker")
    # There are two workers, so this one goes on only if the first life's task does not hold the other.
    done = run.progress()["done"]
    eventually(lambda: run.progress()["done"] > done + 1000, "the first life's tasks are cancelled", within_s=10)
    assert len(hosts_of(cluster)) == 1
    run.cancel()
    assert run.wait(PATIENCE_S)


@pytest.mark.parametrize("deaths", [1, 2])
def test_a_host_that_dies_begins_anew_and_the_result_is_the_same(cluster: Cluster, tmp_path: Path, deaths: int) -> None:
    run = cluster.application().push_tasksystem(systems.DiesAtFirst(300, deaths, tmp_path))
    assert run.result(PATIENCE_S) == sum_of_squares(300)
    assert len(list(tmp_path.iterdir())) == deaths


def test_a_host_that_always_dies_is_given_up(cluster: Cluster, tmp_path: Path) -> None:
    run = cluster.application().push_tasksystem(systems.DiesAtFirst(300, 99, tmp_path))
    with pytest.raises(PoisonTask):
        run.result(PATIENCE_S)
    assert len(list(tmp_path.iterdir())) == 3


def test_workers_and_slaves_that_are_killed_change_no_result(tmp_path: Path) -> None:
    two_phases = systems.TwoPhases(750, systems.SlowSquare)
    early = systems.FirstAbove(1_000_000, systems.SlowSquare)
    failing = systems.FailsLate(1500, systems.SlowSquare)
    endless = systems.Endless(tmp_path / "started")
    hosted: tuple[systems.Squares, ...] = (two_phases, early, failing, endless)
    for number, system in enumerate(hosted):
        system.host = tmp_path / f"host-{number}"
    with Cluster(workers=2, config=BRISK) as mortal:
        app = mortal.application()
        runs = [app.push_tasksystem(system) for system in hosted]
        for _ in range(3):
            for run in runs:
                done = run.progress()["done"]
                eventually(lambda run=run, done=done: run.progress()["done"] > done or run.wait(0), "it goes on")  # type: ignore[misc]
            hosts = {int(path.read_text()) for path in tmp_path.glob("host-*")}
            os.kill(next(iter(workers_of(slave_pids(mortal)) - hosts)), signal.SIGKILL)
        for pid in slave_pids(mortal):  # and the hosts with it
            os.kill(pid, signal.SIGKILL)
        assert runs[0].result(PATIENCE_S) == sum(n**4 for n in range(750))
        found = runs[1].result(PATIENCE_S)
        assert found["found"] > 1_000_000
        assert found["done"] + found["cancelled"] == found["pushed"]
        with pytest.raises(work.Trouble, match="in gather_result") as caught:
            runs[2].result(PATIENCE_S)
        assert caught.value.code == sum_of_squares(1500)
        assert not runs[3].wait(0)
        runs[3].cancel()
        assert runs[3].wait(PATIENCE_S)
        with pytest.raises(CancelledError):
            runs[3].result()


# ------------------------------------------------------------------------------------------------- memory and rights


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_a_million_tasks_of_a_generator_leave_no_memory_behind(cluster: Cluster) -> None:
    count = 1_000_000
    run = cluster.application().push_tasksystem(Weighs(count, {"master": master_pid(cluster)}))
    assert run.wait(4 * PATIENCE_S)
    total, grown_bytes = run.result()
    assert total == sum_of_squares(count)
    # Of 900,000 tasks, 20 bytes each would be more.
    assert set(grown_bytes) == {"master", "host"}
    assert max(grown_bytes.values()) < 16 << 20, f"it has grown by so many bytes since a tenth: {grown_bytes}"


class Weighs(systems.Squares):
    """Compares the memory of its host, and of other processes, after a tenth of the tasks and after all."""

    def __init__(self, count: int, pids: dict[str, int]) -> None:
        super().__init__(count)
        self.pids = pids

    def init_system(self, master: Any) -> None:
        super().init_system(master)
        self.pids["host"] = os.getpid()
        self.seen = 0

    def task_finished(self, master: Any, task: Any, result: Any, error: Any) -> None:
        super().task_finished(master, task, result, error)
        self.seen += 1
        if self.seen == self.count // 10:
            self.early_bytes = self.weigh()

    def gather_result(self, master: Any) -> Any:
        late_bytes = self.weigh()
        return self.total, {name: late_bytes[name] - early for name, early in self.early_bytes.items()}

    def weigh(self) -> dict[str, int]:
        return {name: psutil.Process(pid).memory_info().rss for name, pid in self.pids.items()}


def test_a_host_is_given_a_clients_token_and_a_key_of_its_own(cluster: Cluster) -> None:
    assert cluster.connection_file is not None
    info = connection_file.read(cluster.connection_file)
    assert set(info.tokens) == {"admin", "client", "slave"}
    given = restricted_access(info, keys.fresh(), "s", "app")
    assert given.info.tokens == {"client": info.tokens["client"]}
    body, _ = dumps(given)
    assert info.tokens["admin"].encode() not in body
    assert given.keys.secret.decode() not in repr(given)
    assert info.tokens["client"] not in repr(given)
    with pytest.raises(AccessRefused, match="has no token for a client"):
        restricted_access(
            msgspec.structs.replace(info, tokens={"admin": info.tokens["admin"]}), keys.fresh(), "s", "app"
        )
