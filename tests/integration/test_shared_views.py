"""What a cell shows is shared: readers of the master see picture, prints and errors while it blocks, and after it."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from concurrent_nb.transport import connection_file
from concurrent_nb.transport.control_client import ControlClient
from tests.clusters import eventually, running
from tests.feeds import following
from tests.notebooks import Notebook
from tests.work import PATIENCE_S

LAB = "viewed"
WAIT = "import pathlib, time\nwhile not pathlib.Path({!r}).exists(): time.sleep(0.02)\n"


@pytest.fixture(scope="module")
def notebook(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Notebook]:
    notebook = Notebook(tmp_path_factory.mktemp("notebook"))
    try:
        notebook.run(f"%concurrent start --workers 2 --name {LAB}")
        assert notebook.run("%%concurrent_task\n1").value == "1"  # the slave has come by then
        yield notebook
    finally:
        notebook.close()


@pytest.fixture
def admin(notebook: Notebook) -> Iterator[ControlClient]:
    info = connection_file.read(LAB)
    with ControlClient(info.endpoints, info.tokens["admin"], info.certificate_pem, timeout_s=PATIENCE_S) as control:
        yield control


def job_named(admin: ControlClient, name: str) -> str:
    """Return the id of the job of that name, when the master has it."""
    found: list[str] = []

    def look() -> bool:
        found[:] = [job["id"] for job in admin.call("status")["jobs"] if job["name"] == name]
        return bool(found)

    eventually(look, f"the master has job {name}")
    return found[-1]


def view_when(admin: ControlClient, job: str, holds: Callable[[dict[str, Any]], Any], what: str) -> dict[str, Any]:
    """Return the view of a job as soon as something holds of it."""
    seen: dict[str, Any] = {}

    def look() -> bool:
        view = admin.call("job_view", job=job)["view"]
        seen.clear()
        seen.update(view or {})
        return bool(view and holds(view))

    eventually(look, what)
    return seen


def printed(view: dict[str, Any]) -> str:
    return "".join(output["text"] for output in view["outputs"] if output["type"] == "stream")


def threads_of(notebook: Notebook) -> str | None:
    return notebook.run("import threading; [t.name for t in threading.enumerate() if 'shared' in t.name]").value


def test_a_cell_that_blocks_is_seen_by_others(notebook: Notebook, admin: ControlClient, tmp_path: Path) -> None:
    flag = tmp_path / "go"
    cell = notebook.start(
        '%%concurrent_task --for "n in range(6)" --view image --on-error keep --name seen\n'
        "print('hello', n)\n"
        "if n in (1, 2): raise ValueError(f'no {n}')\n"
        "display({'text/plain': f'figure {n}'}, raw=True)\n"
        f"if n == 5:\n    {WAIT.format(str(flag)).replace(chr(10), chr(10) + '    ')}\n"
        "list(range(n, n + 30))"
    )
    job = job_named(admin, "seen")
    view = view_when(
        admin,
        job,
        lambda view: len(view["errors"]["kinds"]) == 1 and view["view"]["png"] and "hello 5" in printed(view),
        "picture, error and prints are there while the cell blocks",
    )
    assert view["is_over"] is False
    assert "5/6 tasks" in view["text"] or "4/6 tasks" in view["text"]
    assert (view["view"]["width"], view["view"]["height"]) == (6, 30)
    (kind,) = view["errors"]["kinds"]
    assert (kind["type"], kind["count"], kind["tasks"]) == ("ValueError", 2, [1, 2])
    assert "raise ValueError(f'no {n}')" in kind["text"]
    version = admin.call("job_view", job=job)["version"]
    assert admin.call("job_view", job=job, since=version) == {"version": version, "view": None}
    with following(LAB) as follower:
        follower.eventually(lambda state: state["jobs"][job]["view_version"] >= version, "the feed has the version")
    flag.touch()
    answer = notebook.finish(cell)
    last = view_when(admin, job, lambda view: view["is_over"], "the last view has come")
    assert last["text"] == answer.summary()
    assert last["text"].startswith("6 tasks: 4 done, 2 failed in ")
    assert sorted(printed(last).splitlines()) == [f"[{n}] hello {n}" for n in range(6)]
    shown = [output["data"]["text/plain"] for output in last["outputs"] if output["type"] == "display"]
    assert [text for text in shown if text.startswith("figure")] == ["figure 0", "figure 3", "figure 4", "figure 5"]
    assert "task 3 \N{MIDDLE DOT} n = 3" in shown
    assert threads_of(notebook) == "[]"


def test_a_job_in_the_background_is_shared(notebook: Notebook, admin: ControlClient, tmp_path: Path) -> None:
    flag = tmp_path / "go"
    notebook.run(
        '%%concurrent_task --no-block --for "n in range(3)" --view table --name behind\n'
        f"print('hello', n)\n{WAIT.format(str(flag))}n * n"
    )
    job = job_named(admin, "behind")
    view = view_when(admin, job, lambda view: "hello 1" in printed(view), "the prints are there")
    assert view["view"]["kind"] == "table"
    flag.touch()
    last = view_when(admin, job, lambda view: view["is_over"], "the last view has come")
    assert last["text"].startswith("3 tasks in ")
    assert [row[2] for row in last["view"]["rows"]] == ["0", "1", "4"]
    eventually(lambda: threads_of(notebook) == "[]", "the thread has ended")


def test_a_task_system_is_shared(notebook: Notebook, admin: ControlClient, tmp_path: Path) -> None:
    flag = tmp_path / "go"
    cell = notebook.start(
        "%%concurrent_task --name system\n"
        "import concurrent_nb\n"
        "class Waits(concurrent_nb.Task):\n"
        "    def __call__(self):\n"
        f"        {WAIT.format(str(flag)).replace(chr(10), chr(10) + '        ')}print('waited')\n"
        "class Waiting(concurrent_nb.ITaskSystem):\n"
        "    def init_system(self, master): pass\n"
        "    def generate_tasks(self, master): return [Waits() for _ in range(3)]\n"
        "    def task_finished(self, master, task, result, error): pass\n"
        "    def gather_result(self, master): return 'gathered'\n"
        "Waiting()"
    )
    found: list[str] = []

    def look() -> bool:
        for job in [job["id"] for job in admin.call("status")["jobs"] if job["name"] == "system"]:
            view = admin.call("job_view", job=job)["view"]
            if view and view["bars"]["bars"] and view["bars"]["bars"][0][0] == "phase 1":
                found[:] = [job]
        return bool(found)

    eventually(look, "the progress of the system is there")
    flag.touch()
    notebook.finish(cell)
    last = view_when(admin, found[0], lambda view: view["is_over"], "the last view has come")
    assert printed(last).count("waited") == 3


def test_a_quick_cell_is_shared_once(notebook: Notebook, admin: ControlClient) -> None:
    assert notebook.run("%%concurrent_task --name quick\nprint('hello')\n40 + 2").value == "42"
    jobs = notebook.run("_job.id.hex()").value
    assert jobs is not None
    last = view_when(admin, jobs.strip("'"), lambda view: view["is_over"], "the view has come")
    assert printed(last) == "hello\n"


def test_local_tasks_are_not_shared(notebook: Notebook, admin: ControlClient) -> None:
    before = admin.call("status")["jobs"]
    notebook.run('%%concurrent_task --local --for "n in range(3)"\nimport time\ntime.sleep(0.2)')
    assert threads_of(notebook) == "[]"
    assert admin.call("status")["jobs"] == before


def test_the_last_view_outlives_a_kernel_that_is_shut_down(tmp_path: Path) -> None:
    """Its cluster is another one's, and goes on."""
    name = "outliving"
    with running("start", "--name", name, "--workers", "1", says="is running"):
        info = connection_file.read(name)
        notebook = Notebook(tmp_path)
        try:
            notebook.run(f"%concurrent connect {name}")
            notebook.run("%%concurrent_task --name last\nprint('the last words')")
            job = str(notebook.run("_job.id.hex()").value).strip("'")
        finally:
            notebook.close()
        with ControlClient(info.endpoints, info.tokens["admin"], info.certificate_pem) as admin:
            view = admin.call("job_view", job=job)["view"]
    assert view["is_over"] is True
    assert printed(view) == "the last words\n"
