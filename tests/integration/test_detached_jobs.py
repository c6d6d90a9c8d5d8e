"""Jobs that outlive the application that has started them, with real processes."""

import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import pytest

from concurrent_nb import ApplicationNode, Cluster, connect
from concurrent_nb.errors import AttachRefused, ConfigurationError
from concurrent_nb.nodes.application.job import OutputPiece
from tests import fixtures
from tests.notebooks import Notebook
from tests.work import PATIENCE_S, wait_for

T = TypeVar("T")

cluster = fixtures.shared_cluster(workers=2, config={"MasterNode": {"unattended_jobs_s": 60.0}})


@pytest.fixture
def gate(tmp_path: Path) -> Iterator[Path]:
    """The path of a file for which tasks wait; it is there when the test has ended."""
    yield tmp_path / "gate"
    (tmp_path / "gate").touch()


@pytest.fixture
def new_app(cluster: Cluster) -> Iterator[Callable[[], ApplicationNode]]:
    """Makes applications of the same user."""
    made: list[ApplicationNode] = []

    def new() -> ApplicationNode:
        made.append(connect(cluster.connection_file))
        return made[-1]

    yield new
    for app in made:
        app.close()


def wait_until(look: Callable[[], T]) -> T:
    """Return the first value of `look` that is true."""
    deadline = time.monotonic() + PATIENCE_S
    while not (found := look()):
        assert time.monotonic() < deadline
        time.sleep(0.01)
    return found


def named(app: ApplicationNode, name: str) -> list[dict[str, Any]]:
    return [job for job in app.status()["jobs"] if job["name"] == name]


def squares_after(path: Path, array: np.ndarray, n: int) -> np.ndarray:
    sys.stdout.write(f"task {n}\n")
    if n:
        wait_for(path)
    return array * n


def test_a_job_goes_on_without_its_application_and_another_one_gets_everything(
    new_app: Callable[[], ApplicationNode], gate: Path
) -> None:
    large = np.arange(200_000.0)
    first = new_app()
    started = first.start_job(squares_after, [(gate, large, n) for n in range(4)], name="squares", detach=True)
    assert started.futures[0].result(PATIENCE_S)[2] == 0.0
    begun = time.monotonic()
    first.close()  # stops what is not detached; and does not wait
    assert time.monotonic() - begun < PATIENCE_S / 2
    with pytest.raises(RuntimeError, match="attach to it"):
        started.futures[3].result(PATIENCE_S)
    job = new_app().attach(started.id)
    assert (job.name, len(job)) == ("squares", 4)
    gate.touch()
    for n, value in enumerate(job.results(PATIENCE_S)):
        assert np.array_equal(value, large * n)
    again = new_app().attach(started.id.hex()[:12])
    assert np.array_equal(again[3], large * 3)
    assert again.wait(PATIENCE_S) and again.counts().done == 4
    written = [piece for piece in again.take_output() if isinstance(piece, OutputPiece)]
    assert sorted((piece.index, piece.text) for piece in written) == [(n, f"task {n}\n") for n in range(4)]


def test_a_failure_is_the_same_for_all_who_attach(new_app: Callable[[], ApplicationNode]) -> None:
    first, second = new_app(), new_app()
    started = first.start_job(divmod, [(1, 1), (1, 0)], detach=True)
    assert isinstance(started.exception(PATIENCE_S), ZeroDivisionError)
    job = second.attach(started.id)
    assert job[0] == (1, 0)
    with pytest.raises(ZeroDivisionError):
        job.results(PATIENCE_S)


def test_who_attaches_can_cancel(new_app: Callable[[], ApplicationNode], tmp_path: Path) -> None:
    first, second = new_app(), new_app()
    started = first.start_job(wait_for, [(tmp_path / "never",)] * 3, detach=True)
    job = second.attach(started.id)
    job.cancel()
    assert job.wait(PATIENCE_S) and job.cancelled()
    assert started.wait(PATIENCE_S) and started.cancelled()


def test_an_ordinary_job_can_be_read_by_a_second_application(
    new_app: Callable[[], ApplicationNode], gate: Path
) -> None:
    first, second = new_app(), new_app()
    started = first.start_job(wait_for, [(gate,)] * 2)
    wait_until(lambda: any(job["id"] == started.id.hex() for job in second.status()["jobs"]))
    job = second.attach(started.id)
    gate.touch()
    assert job.results(PATIENCE_S) == started.results(PATIENCE_S) == [gate, gate]


def test_another_user_is_refused(cluster: Cluster, new_app: Callable[[], ApplicationNode], tmp_path: Path) -> None:
    started = new_app().start_job(pow, [(2, 3)], detach=True)
    stranger = connect(cluster.connection_file, tmp_path / "stranger.key")
    try:
        with pytest.raises(AttachRefused, match="another user's"):
            stranger.attach(started.id)
        with pytest.raises(AttachRefused, match="no job"):
            stranger.attach(started.id.hex()[:8])
        assert started.id.hex() not in [job["id"] for job in stranger.status()["jobs"]]
    finally:
        stranger.close()


def test_what_cannot_be_detached_is_an_error_at_once(new_app: Callable[[], ApplicationNode]) -> None:
    app = new_app()
    future = app.submit(pow, 2, 3)
    for options in ({"keep": True}, {"batch": 2}):
        with pytest.raises(ConfigurationError, match="leave out keep and batch"):
            app.start_job(pow, [(2, 3)], detach=True, **options)
    with pytest.raises(ConfigurationError, match="cannot wait for other tasks"):
        app.start_job(pow, [(future, 3)], detach=True)
    with pytest.raises(ConfigurationError, match="not the id of a job"):
        app.attach("no hexadecimal digits")
    assert app.start_job(pow, [], detach=True).results() == []


def test_the_status_shows_what_is_kept_and_for_how_long(new_app: Callable[[], ApplicationNode]) -> None:
    app = new_app()
    app.start_job(pow, [(2, 3)], name="kept", detach=True).results(PATIENCE_S)
    kept = wait_until(lambda: [job for job in named(app, "kept") if job["state"] == "kept"])
    assert kept[0]["detached"] and 0 < kept[0]["left_s"] <= 24 * 3600
    assert app.status()["detached"]["unattended_jobs_s"] == 60.0


# --------------------------------------------------------------------------------------------------------- in notebooks


def new_notebook(cluster: Cluster, folder: Path) -> Notebook:
    notebook = Notebook(folder, {"JPY_SESSION_NAME": "work/fit.ipynb"})
    try:
        connected(notebook, cluster)
    except BaseException:
        notebook.close()
        raise
    return notebook


def connected(notebook: Notebook, cluster: Cluster) -> None:
    answer = notebook.run(f"%concurrent connect {cluster.connection_file}")
    assert answer.text.startswith("connected to")


CELL = """\
%%concurrent_task --for "n in range(4)" {options}
import pathlib, time
print("task", n)
while n > 1 and not pathlib.Path({gate!r}).exists():
    time.sleep(0.01)
n * n"""


def test_a_kernel_that_is_restarted_attaches_to_its_job_and_so_does_another_notebook(
    cluster: Cluster, tmp_path: Path, gate: Path
) -> None:
    notebook = new_notebook(cluster, tmp_path)
    try:
        job = notebook.run(CELL.format(options="--detach --name squares", gate=str(gate))).value
        assert job is not None
        job = job.strip("'")
        assert notebook.run("_job[0], _job[1]").value == "(0, 1)"  # in the middle of the job
        notebook.restart(now=True)
        connected(notebook, cluster)
        listed = notebook.run("%concurrent jobs").shown[0]["text/plain"]
        assert job[:8] in listed and "work/fit.ipynb" in listed
        assert '%%concurrent_task --for "n in range(4)" --detach' in listed
        shown = notebook.run(f"%concurrent attach {job[:8]} --out back")
        assert shown.error is None
        gate.touch()
        assert notebook.run("back.results()").value == "[0, 1, 4, 9]"
        other = new_notebook(cluster, tmp_path)
        try:
            shown = other.run("%concurrent attach squares")
            other.wait_for_text({f"[{n}] task {n}" for n in range(4)}, shown.text)
            assert other.run("_job.results()").value == "[0, 1, 4, 9]"
        finally:
            other.close()
    finally:
        notebook.close()


def test_an_ordinary_job_of_a_restarted_kernel_goes_on_and_one_of_a_kernel_that_was_shut_down_ends(
    cluster: Cluster, tmp_path: Path, gate: Path, new_app: Callable[[], ApplicationNode]
) -> None:
    app = new_app()
    notebook = new_notebook(cluster, tmp_path)
    try:
        notebook.run(CELL.format(options="--no-block --name restarted", gate=str(gate)))
        notebook.run("_job[0]")
        notebook.restart()
        job = wait_until(lambda: [job for job in named(app, "restarted") if job["detached"]])
        gate.touch()
        assert app.attach(job[0]["id"]).done_results().keys() <= {0, 1, 2, 3}
        assert app.attach(job[0]["id"])[3] == 9
        connected(notebook, cluster)
        notebook.run(CELL.format(options="--no-block --name closed", gate=str(tmp_path / "never")))
        wait_until(lambda: named(app, "closed"))
    finally:
        notebook.close()
    wait_until(lambda: not named(app, "closed"))


def test_an_embedded_cluster_refuses_to_detach(tmp_path: Path) -> None:
    notebook = Notebook(tmp_path)
    try:
        notebook.run("%concurrent start --workers 1")
        answer = notebook.run("%%concurrent_task --detach\n1")
        assert answer.error == "ConfigurationError" and "concurrent-nb start" in answer.message
    finally:
        notebook.close()
