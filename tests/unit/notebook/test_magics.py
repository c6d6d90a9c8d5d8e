"""Cells typed into a shell, with the cluster in this process: what users see."""

import builtins
import sys
import traceback
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import CancelledError
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, cast

import pytest
from IPython.core.error import StdinNotImplementedError
from IPython.core.interactiveshell import InteractiveShell
from traitlets.config import Config

import concurrent_nb
from concurrent_nb import ApplicationNode, Job
from concurrent_nb.errors import (
    CaptureError,
    CellError,
    ClusterNotFound,
    ConcurrentError,
    ConfigurationError,
    MasterLost,
    NotPicklable,
    RemoteError,
    ResultNotPicklable,
    TooLarge,
)
from concurrent_nb.notebook import current_cluster as current_cluster
from concurrent_nb.notebook import hints, tables
from concurrent_nb.notebook.cell_output import Printer
from concurrent_nb.notebook.local_job import LocalJob
from concurrent_nb.notebook.magics import ConcurrentMagics
from concurrent_nb.notebook.results import Outcome
from concurrent_nb.wire.messages import Needs


@dataclass
class FakeApplication:
    """An application whose jobs run in this process in `wait`."""

    name = "mine"
    started: list[tuple[Sequence[tuple[Any, ...]], dict[str, Any]]] = field(default_factory=list)
    closed: int = 0
    lost: bool = False
    names_of_setups: frozenset[str] = frozenset()
    is_closed: bool = False

    def start_job(
        self,
        function: Callable[..., Any],
        calls: Sequence[tuple[Any, ...]],
        *,
        until: bool = False,
        timeout_s: float | None,
        **rest: Any,
    ) -> Job:
        if self.lost:
            raise MasterLost("the master is gone")
        self.started.append((calls, {"until": until, "timeout_s": timeout_s, **rest}))
        del rest["prints"], rest["strategy"], rest["needs"]
        for name in ("batch", "keep", "detach"):
            rest.pop(name, None)
        job = LocalJob(function, calls, Printer(len(calls) > 1), **rest)
        job.slaves = {"here"}
        return job

    def start_cell(self, function: Callable[[], Any], **options: Any) -> Job:
        return self.start_job(function, [()], **options)

    def present_errors(self, presenter: Any) -> None:
        self.presenter = presenter

    def present_displays(self, presenter: Any) -> None:
        self.display = presenter

    submits: list[tuple[bytes, int]] = field(default_factory=list)
    jobs: list[Job] = field(default_factory=list)

    def cancel_submits(self) -> int:
        count = len(self.submits)
        self.submits.clear()
        return count

    def open_submits(self) -> list[tuple[bytes, int]]:
        return self.submits

    def open_jobs(self) -> list[Job]:
        return self.jobs

    def status(self) -> dict[str, Any]:
        slave = {"name": "one", "slots": 2, "done": 5, "in_flight": 0, "state": "active"}
        return {"slaves": [slave], "tasks": {"waiting": 0, "assigned": 1}}

    def close(self) -> None:
        self.closed += 1


@dataclass
class FakeCluster:
    """A cluster without processes."""

    workers: int | None = None
    name: str | None = None
    app: FakeApplication = field(default_factory=FakeApplication)
    running: bool = False
    connection_file: Path | None = None

    def start(self) -> "FakeCluster":
        self.running = True
        return self

    def close(self) -> None:
        self.running = False

    def application(self) -> FakeApplication:
        return self.app

    def status(self) -> dict[str, Any]:
        return self.app.status()


@dataclass
class Notebook:
    """A shell with the extension loaded, and what it started."""

    shell: InteractiveShell
    clusters: list[FakeCluster]
    raised: BaseException | None = None

    def run(self, source: str, fails: type[BaseException] | None = None) -> Any:
        """Run a cell; return its value, or what it raised if it is to fail."""
        result = self.shell.run_cell(source, store_history=True)  # type: ignore[no-untyped-call]
        error = result.error_before_exec or result.error_in_exec
        if fails is None:
            result.raise_error()
            return result.result
        assert isinstance(error, fails), error
        return error

    def task(self, options: str, source: str, fails: type[BaseException] | None = None) -> Any:
        return self.run(f"%%concurrent_task {options}\n{source}", fails)

    @property
    def app(self) -> FakeApplication:
        return self.clusters[-1].app

    @property
    def magics(self) -> ConcurrentMagics:
        return cast(ConcurrentMagics, self.shell.magics_manager.registry["ConcurrentMagics"])


@pytest.fixture
def notebook(monkeypatch: pytest.MonkeyPatch) -> Iterator[Notebook]:
    clusters: list[FakeCluster] = []

    def make_cluster(workers: int | None = None, name: str | None = None) -> FakeCluster:
        clusters.append(FakeCluster(workers, name))
        return clusters[-1]

    monkeypatch.setattr(current_cluster, "Cluster", make_cluster)
    # A shell takes these for itself.
    kept = sys.displayhook, sys.excepthook, sys.modules["__main__"]
    shell = InteractiveShell.instance(config=Config(HistoryManager={"hist_file": ":memory:"}))
    shell.reset(new_session=True)  # type: ignore[no-untyped-call]
    shell.run_line_magic("load_ext", "concurrent_nb")
    try:
        yield Notebook(shell, clusters)
    finally:
        shell.run_line_magic("unload_ext", "concurrent_nb")
        sys.displayhook, sys.excepthook, sys.modules["__main__"] = kept
        assert not any(cluster.running for cluster in clusters)


def test_the_first_task_starts_a_cluster_and_prints_that(
    notebook: Notebook, capsys: pytest.CaptureFixture[str]
) -> None:
    notebook.run("x = 20")
    assert notebook.task("", "x + 1") == 21
    assert notebook.task("", "x + 2") == 22
    first, *rest = capsys.readouterr().out.splitlines()
    workers = notebook.clusters[0].workers
    assert first == f"started an embedded cluster: {workers} worker{'s' * (workers != 1)} (%concurrent stop stops it)"
    assert not any("started" in line for line in rest)
    assert len(notebook.clusters) == 1


def test_the_search_of_the_thesis(notebook: Notebook, capsys: pytest.CaptureFixture[str]) -> None:
    notebook.run("target = '28238d467c88ae233a214d38c02dbccd'\nstep = 2_000_000 // 128")
    value = notebook.task(
        '--for "n in range(108, 128)" --until "result is not None" --out found',
        "import hashlib\n"
        "lo, hi = 1 + n * step, min(1 + (n + 1) * step, 2_000_001)\n"
        "next((i for i in range(lo, hi) if hashlib.md5(str(i).encode()).hexdigest() == target), None)",
    )
    assert value is None
    assert notebook.shell.user_ns["found"] == 1763965
    assert "20 tasks: 5 done, 15 cancelled in " in capsys.readouterr().out
    assert notebook.run("_job.hit.index") == 4
    assert notebook.app.started[0][1]["until"] is True


@pytest.mark.parametrize(
    ("source", "shown"),
    [
        ('exec("1 +")', "SyntaxError: invalid syntax"),
        ('raise ExceptionGroup("two", [ValueError(1), KeyError(2)])', "| ExceptionGroup: two (2 sub-exceptions)"),
    ],
)
def test_errors_that_ipython_shows_itself_end_in_the_cell_s_lines_too(
    notebook: Notebook, capsys: pytest.CaptureFixture[str], source: str, shown: str
) -> None:
    notebook.task("", source, fails=Exception)
    out = "".join(capsys.readouterr())
    assert shown in out
    assert "concurrent_nb/notebook" not in out
    notebook.run(source, fails=Exception)  # not of a task: as ever
    assert shown.partition(": ")[2] in "".join(capsys.readouterr())


def test_without_a_hit_the_value_is_none(notebook: Notebook) -> None:
    assert notebook.task('--for "n in range(3)" --until "result > 5" --out found', "n") is None
    assert notebook.shell.user_ns["found"] is None


def test_for_gives_the_list_of_results(notebook: Notebook) -> None:
    assert notebook.task('--for "a, b in zip((1, 2), (3, 4)) if a < 5" --out sums', "a + b") is None
    assert notebook.shell.user_ns["sums"] == [4, 6]


def test_a_loop_over_nothing_needs_no_cluster(notebook: Notebook) -> None:
    assert notebook.task('--for "n in ()"', "n") == []
    assert notebook.task('--for "n in ()" --until "result"', "n") is None
    assert notebook.clusters == []


def test_a_cell_without_a_value_shows_none_but_binds_it(notebook: Notebook) -> None:
    assert notebook.task('--for "n in range(2)" --out values', "n;") is None
    assert notebook.shell.user_ns["values"] == [None, None]


def test_options_reach_the_job(notebook: Notebook) -> None:
    notebook.task('--timeout 2.5 --retries 3 --on-error keep --strategy stealing --name "my job"', "1")
    assert notebook.app.started[0][1] == {
        "until": False,
        "keep": False,
        "detach": False,
        "strategy": "stealing",
        "timeout_s": 2.5,
        "name": "my job",
        "stop_on_error": False,
        "retries": 3,
        "needs": None,
        "batch": None,
        "watched": False,
        "prints": False,
    }
    notebook.task("", "1")
    number = notebook.shell.displayhook.prompt_count
    assert notebook.app.started[1][1]["name"] == f"In[{number}]"


def test_no_block_gives_the_job(notebook: Notebook) -> None:
    job = notebook.task("--no-block", "5")
    assert isinstance(job, Job)
    assert job.wait()
    assert job.futures[0].result() == 5
    assert notebook.task("--no-block --out later", "6") is None
    later = notebook.shell.user_ns["later"]
    assert later is notebook.shell.user_ns["_job"]
    assert later.wait()
    assert later.futures[0].result() == 6


def test_prints_of_several_tasks_are_marked(notebook: Notebook, capsys: pytest.CaptureFixture[str]) -> None:
    notebook.task('--for "n in range(2)"', "import sys\nprint('hi', n)\nprint('oh', file=sys.stderr)")
    captured = capsys.readouterr()
    assert "[0] hi 0\n[1] hi 1\n" in captured.out
    assert captured.err == "[0] oh\n[1] oh\n"
    notebook.task('--for "n in range(2)"', "print('a')\nprint('b', n, end='')")
    assert "[0] a\n[0] b 0\n[1] a\n[1] b 1\n" in capsys.readouterr().out
    notebook.task("", "print('alone')")
    assert "alone\n1 task in " in capsys.readouterr().out


def test_the_first_error_ends_the_job_and_is_raised(notebook: Notebook, capsys: pytest.CaptureFixture[str]) -> None:
    notebook.run("def helper(x):\n    return 1 / x")
    error = notebook.task('--for "n in range(4)" --out x', "y = 1\nhelper(1 - n)", fails=ZeroDivisionError)
    shown = capsys.readouterr().out
    number = notebook.shell.displayhook.prompt_count
    assert "4 tasks: 1 done, 1 failed, 2 cancelled" in shown
    assert error.__notes__[0].startswith("task 1 (n = 1) failed")
    lines = shown[shown.index("Traceback") :].strip().splitlines()
    tail = [line for line in lines if set(line.strip()) - {"^", "~"}]  # Pythons differ in what they point at
    assert tail[1] == f"  Cell In[{number}], line 3"
    assert tail[2] == "    helper(1 - n)"
    assert tail[3] == f"  Cell In[{number - 1}], line 2, in helper"
    assert tail[-2] == "ZeroDivisionError: division by zero"
    assert tail[-1].startswith("(the debugger cannot ")
    assert "/concurrent_nb/" not in shown
    assert "x" not in notebook.shell.user_ns
    assert notebook.run("_job.futures[0].result()") == 1.0


def test_an_error_of_a_local_task_can_be_debugged_where_it_was_raised(notebook: Notebook) -> None:
    error = notebook.task('--local --for "k in (2, 0)"', "mine = 1\nmine / k", fails=ZeroDivisionError)
    frames = [frame for frame, _ in traceback.walk_tb(error.__traceback__)]
    assert (frames[-1].f_locals["mine"], frames[-1].f_locals["k"]) == (1, 0)
    assert error.__notes__[0].startswith("task 1 (k = 0) failed")


def test_the_traceback_of_a_task_elsewhere_ends_in_the_user_s_frame(notebook: Notebook) -> None:
    notebook.run("f = lambda x: 1 / x")
    error = notebook.task("", "f(0)", fails=ZeroDivisionError)
    error.__traceback__ = None
    for source in ("raise _job.first_error.exception()", "_job.results()", "_job.futures[0].result()"):
        error = notebook.run(source, fails=ZeroDivisionError)
        frames = [frame for frame, _ in traceback.walk_tb(error.__traceback__)]
        assert "concurrent_nb" not in frames[-1].f_code.co_filename


@pytest.mark.parametrize(
    ("cell", "names"),
    [
        ("answer = 6 * 7", "`answer`"),
        ("a, b = 1, 2", "`(a, b)`"),
        ("x: int = 3", "`x`"),
        ("n = 1\nn += 1", "`n`"),
        ("d = {}\nd['k'] = 3", "`d['k']`"),
        ("import os\nwith open(os.devnull) as f:\n    text = f.read()", "`text`"),
        ("total = 0\nfor i in range(3):\n    total += i", "`total`"),
        ("if True:\n    y = 1\nelse:\n    y = 2", "`y`"),
    ],
)
def test_a_cell_that_ends_in_an_assignment_gives_a_hint(
    notebook: Notebook, capsys: pytest.CaptureFixture[str], cell: str, names: str
) -> None:
    assert notebook.task("", cell) is None
    assert "this cell has no value: the value is the last expression, and this cell ends in a" in (
        shown := capsys.readouterr().out
    )
    assert f"add a last line {names}" in shown
    assert "--out" in shown


@pytest.mark.parametrize(
    "cell", ["1;", "print(3)", "x = 1\nx", "for i in range(3):\n    print(i)", "import os", "pass"]
)
def test_other_cells_give_none(notebook: Notebook, capsys: pytest.CaptureFixture[str], cell: str) -> None:
    notebook.task("", cell)
    assert "this cell has no value" not in capsys.readouterr().out


def test_a_search_without_a_hit_is_reported(notebook: Notebook, capsys: pytest.CaptureFixture[str]) -> None:
    notebook.task('--for "n in range(20)" --until "result == 999" --out found', "n")
    assert "not found: `result == 999` was not true for the result of all 20 tasks" in capsys.readouterr().out
    notebook.task('--for "n in range(20)" --until "result == 9"', "n")
    notebook.task('--until "result"', "0")
    assert capsys.readouterr().out.count("not found") == 1


def test_a_variable_gets_its_value_in_silence(notebook: Notebook) -> None:
    assert notebook.task("--out one", "1") is None
    assert notebook.task('--for "n in range(3)" --on-error keep --out kept', "n") is None
    assert notebook.task('--for "n in range(3)" --until "result == 1" --out hit', "n") is None
    assert [notebook.shell.user_ns[name] for name in ("one", "hit")] == [1, 1]
    assert [outcome.value for outcome in notebook.shell.user_ns["kept"]] == [0, 1, 2]


def test_a_stopped_cell_binds_what_has_finished(notebook: Notebook, capsys: pytest.CaptureFixture[str]) -> None:
    error = notebook.task(
        '--local --for "n in range(5)" --out some', "if n == 2: raise KeyboardInterrupt\nn * n", fails=KeyboardInterrupt
    )
    assert notebook.shell.user_ns["some"] == {0: 0, 1: 1}
    shown = capsys.readouterr().out
    assert "KeyboardInterrupt: the job was stopped; 2 of 5 results had arrived: some is a dictionary of them" in shown
    assert isinstance(error, KeyboardInterrupt)


@pytest.mark.parametrize("options", ["--out some", "--until 'result == 99' --out some", "--local --out some"])
def test_a_cell_whose_job_is_cancelled_from_elsewhere_says_so_in_a_line(
    notebook: Notebook, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, options: str
) -> None:
    monkeypatch.setattr(builtins, "cancel", lambda: notebook.shell.user_ns["_job"].cancel(), raising=False)
    source = "import builtins\nif n == 2: builtins.cancel()\nn * n"
    error = notebook.task(f'--for "n in range(9)" {options}', source, fails=CancelledError)
    assert isinstance(error, CancelledError)
    shown = capsys.readouterr().out
    assert "CancelledError: the job was cancelled; 2 of 9 results had arrived: some is a dictionary of them" in shown
    assert "Traceback" not in shown
    assert notebook.shell.user_ns["some"] == {0: 0, 1: 1}


def test_help_is_what_one_asks_for(notebook: Notebook, capsys: pytest.CaptureFixture[str]) -> None:
    notebook.run("%concurrent help")
    listed = capsys.readouterr().out
    assert {line.split()[1] for line in listed.splitlines() if line.startswith("%concurrent ")} >= {
        "start",
        "jobs",
        "stop",
    }
    notebook.run("%concurrent")
    assert listed in (both := capsys.readouterr().out)
    assert "no cluster" in both
    assert notebook.clusters == []
    text = str(vars(ConcurrentMagics)["concurrent_task"].__doc__)
    assert text.lstrip().startswith("::\n\n  %%concurrent_task")
    for word in ('--for "rate in', "pull_round_robin", "`cancelled`", "is not run again"):
        assert word in text


def test_looking_at_slaves_starts_no_cluster(notebook: Notebook, capsys: pytest.CaptureFixture[str]) -> None:
    notebook.run("%concurrent slaves")
    assert "no cluster" in capsys.readouterr().out
    assert notebook.clusters == []
    notebook.task("", "1")
    notebook.run("%reload_ext concurrent_nb")
    assert "stopped an embedded cluster" in capsys.readouterr().out


def test_jobs_stand_below_each_other_the_last_one_first(notebook: Notebook, capsys: pytest.CaptureFixture[str]) -> None:
    notebook.task('--name "a rather long name" --for "n in range(12)"', "n")
    notebook.task("--name short", "1")
    notebook.task('--for "n in (1, 0)" --on-error keep', "1 / n")
    capsys.readouterr()
    notebook.run("%concurrent jobs")
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[1] for line in lines] == [lines[0].split()[1], "short", "a"]
    assert "1 of 2 done, 1 failed" in lines[0]
    assert len({line.index(" s  ") for line in lines}) == 1
    assert "0 failed" not in "".join(lines)


def job_status(job: str, name: str, state: str, done: int) -> dict[str, Any]:
    """Return a job of another notebook in the status of a master."""
    return {
        "id": job,
        "name": name,
        "client": "application-7",
        "state": state,
        "tasks": 1200,
        "done": done,
        "age_s": 3.0,
    }


OTHERS = [job_status("ab" * 16, "fits", "running", 7), job_status("cd" * 16, "old", "idle", 1200)]


def test_jobs_of_others_are_listed(
    notebook: Notebook, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    notebook.task("--name mine", "1")
    monkeypatch.setattr(FakeCluster, "status", lambda self: {"jobs": OTHERS}, raising=False)
    capsys.readouterr()
    notebook.run("%concurrent jobs")
    mine, others = capsys.readouterr().out.splitlines()
    assert mine.split()[:2] == ["ended", "mine"]
    assert mine.endswith("this notebook")
    assert others.split()[:2] == ["running", "fits"]
    assert "7 of 1,200 done" in others
    assert others.endswith("application-7")


def test_jobs_of_cells_elsewhere_are_listed_with_notebook_and_first_line(
    notebook: Notebook, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    detached = {**OTHERS[0], "client": None, "detached": True, "notebook": "work/fit.ipynb", "line": "fit(n)"}
    monkeypatch.setattr(FakeCluster, "status", lambda self: {"jobs": [detached]}, raising=False)
    notebook.task("--name mine", "1")
    capsys.readouterr()
    notebook.run("%concurrent jobs")
    mine, listed = capsys.readouterr().out.splitlines()
    assert mine.endswith("this notebook")
    assert listed.split()[-3:] == ["(detached)", "work/fit.ipynb", "fit(n)"]


def test_attaching_needs_a_job_and_a_cluster(notebook: Notebook) -> None:
    with pytest.raises(ConfigurationError, match="needs a job"):
        notebook.run("%concurrent attach")
    with pytest.raises(ConfigurationError, match="no cluster"):
        notebook.run("%concurrent attach 3f2a91c0")


def test_jobs_and_slaves_are_tables(notebook: Notebook, monkeypatch: pytest.MonkeyPatch) -> None:
    notebook.task('--name "<b>" --for "n in (1, 0)" --on-error keep', "1 / n")
    monkeypatch.setattr(FakeCluster, "status", lambda self: {"jobs": OTHERS}, raising=False)
    shown: list[tables.Table] = []
    monkeypatch.setattr(tables.Table, "show", lambda self: shown.append(self))
    notebook.run("%concurrent jobs")
    notebook.run("%concurrent slaves")
    jobs, slaves = shown
    assert jobs.columns == ["State", "Name", ">Done", ">Failed", ">Cancelled", ">Time", "Id", "Application"]
    assert jobs.rows[0][:5] == ["ended", "<b>", tables.ProgressCell(1, 2), "1", ""]
    assert jobs.rows[1][1:3] == ["fits", tables.ProgressCell(7, 1200)]
    assert "&lt;b&gt;" in jobs.html()
    assert jobs.text.count("\n") == 1
    assert slaves.rows == [["one", "active", "", "2", "0", "0", "5", "", "", ""]]
    assert slaves.text == "  slave one: 2 workers, active, 0 in flight, 5 done"


def test_a_trace_is_of_a_job_or_of_all(
    notebook: Notebook, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    notebook.run("%concurrent trace", fails=ConfigurationError)
    notebook.task('--name "the job"', "1")
    traced: list[tuple[str, str]] = []

    def trace(of: Any, path: str) -> str:
        traced.append((of.name if isinstance(of, Job) else "", path))
        return "wrote"

    monkeypatch.setattr(Job, "trace", trace)
    monkeypatch.setattr(FakeApplication, "trace", trace, raising=False)
    for line in ("", "all.json", '"the job"', '"the job" one.json'):
        notebook.run(f"%concurrent trace {line}")
    assert traced == [("", "trace.json"), ("", "all.json"), ("the job", "trace-the-job.json"), ("the job", "one.json")]
    assert "wrote" in capsys.readouterr().out
    error = notebook.run("%concurrent trace nothing", fails=ConfigurationError)
    assert "%concurrent trace: no job 'nothing'" in str(error)
    error = notebook.run("%concurrent status a b", fails=ConfigurationError)
    assert "takes no" in str(error)


def test_a_job_that_ran_here_has_no_trace(notebook: Notebook) -> None:
    notebook.task("--no-block --out job", "1")
    error = notebook.run("job.trace('trace.json')", fails=ConfigurationError)
    assert "has no trace, because it runs without a cluster" in str(error)


def test_a_cluster_on_which_others_work_is_not_stopped_without_a_question(
    notebook: Notebook, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    notebook.task("", "1")
    monkeypatch.setattr(FakeCluster, "status", lambda self: {"jobs": OTHERS}, raising=False)
    monkeypatch.setattr("builtins.input", refuse)
    error = notebook.run("%concurrent stop", fails=ConfigurationError)
    assert "1 job of application-7 is still running here (fits)" in str(error)
    assert "--force" in str(error)
    monkeypatch.setattr("builtins.input", lambda question: "n" if question.endswith("[y/N] ") else "y")
    notebook.run("%concurrent stop", fails=ConfigurationError)
    assert [cluster.running for cluster in notebook.clusters] == [True]
    notebook.run("%concurrent stop --force")
    assert [cluster.running for cluster in notebook.clusters] == [False]
    notebook.task("", "1")
    monkeypatch.setattr("builtins.input", lambda question: "yes")
    notebook.run("%concurrent stop")
    notebook.task("", "1")
    monkeypatch.setattr(FakeCluster, "status", lambda self: {"jobs": OTHERS[1:]}, raising=False)
    monkeypatch.setattr("builtins.input", refuse)
    notebook.run("%concurrent stop")  # what is idle loses nothing
    assert "stopped an embedded cluster" in capsys.readouterr().out


def refuse(question: str) -> str:
    raise StdinNotImplementedError("no one is there")


def test_a_job_is_cancelled_and_shown_by_the_variable_that_has_it(
    notebook: Notebook, capsys: pytest.CaptureFixture[str]
) -> None:
    notebook.task('--no-block --out later --for "n in range(3)"', "n")
    notebook.run("%concurrent cancel later")
    assert "cancelled" in capsys.readouterr().out
    notebook.run("%concurrent show later")
    assert "2 cancelled" in capsys.readouterr().out
    notebook.run("%concurrent show")
    assert "2 cancelled" in capsys.readouterr().out
    notebook.run("%concurrent show nothing", fails=ConfigurationError)


def test_stats_shows_a_job_by_variable_name_or_the_last_one(
    notebook: Notebook, capsys: pytest.CaptureFixture[str]
) -> None:
    notebook.run("%concurrent stats", fails=ConfigurationError)
    source = "import concurrent_nb\nconcurrent_nb.stats.add('rows', n)\nn"
    notebook.task('--for "n in (1, 3)" --name fits', source)
    for command in ("%concurrent stats", "%concurrent stats fits", "%concurrent stats _job"):
        capsys.readouterr()
        notebook.run(command)
        shown = capsys.readouterr().out
        assert "job fits: 2 tasks, 2 done" in shown
        assert "average 2" in shown
        assert "no master has the job" in shown
    notebook.run("%concurrent stats plans", fails=ConfigurationError)


def test_batches_are_suggested_for_many_short_tasks(monkeypatch: pytest.MonkeyPatch) -> None:
    job: Any = LocalJob(abs, [(n,) for n in range(2000)], Printer(True))
    job.wait()
    monkeypatch.setattr(Job, "elapsed_s", 3.0)
    assert (hints.many_short_tasks(job) or "").startswith("2,000 tasks of 0 ms each: --batch auto")
    for future in job.futures:
        future.elapsed_s = 0.01
    assert hints.many_short_tasks(job) is None


def test_on_error_keep_shows_outcomes_of_cells_without_a_value(notebook: Notebook) -> None:
    outcomes = notebook.task('--for "n in (1, 0)" --on-error keep', "x = 1 / n")
    assert [outcome.ok for outcome in outcomes] == [True, False]
    assert notebook.task("--on-error keep", "x = 1").ok
    assert notebook.task("--on-error keep", "1;") is None
    assert notebook.task("--on-error keep --out kept", "x = 1") is None


def test_on_error_keep_gives_an_outcome_per_task(notebook: Notebook) -> None:
    outcomes = notebook.task('--for "n in (1, 0)" --on-error keep', "1 / n")
    assert [outcome.ok for outcome in outcomes] == [True, False]
    assert outcomes[0] == Outcome(0, 1.0)
    assert isinstance(outcomes[1].error, ZeroDivisionError)
    assert repr(outcomes) == "[<0: 1.0>, <1: ZeroDivisionError('division by zero')>]"
    assert repr(Outcome(3, cancelled=True)) == "<3: cancelled>"
    assert not Outcome(3, cancelled=True).ok
    alone = notebook.task("--on-error keep", "1 / 0")
    assert isinstance(alone.error, ZeroDivisionError)


@pytest.mark.parametrize("options", ["--local", ""])
def test_local_means_the_same(notebook: Notebook, options: str, capsys: pytest.CaptureFixture[str]) -> None:
    notebook.run("data = [0]\nk = 1")
    source = "data.append(n)\nk += len(data)\nprint(n)\nk"
    assert notebook.task(f'{options} --for "n in range(3)"', source) == [3, 3, 3]
    assert notebook.run("data, k") == ([0], 1)
    assert notebook.task(f'{options} --for "n in range(9)" --until "result > 5"', "n * 2") == 6
    notebook.task(f"{options} --retries 2", "1 / 0", fails=ZeroDivisionError)
    assert notebook.run("_job.futures[0].attempt") == 3
    notebook.task(options, "(i for i in ())", fails=ResultNotPicklable)
    notebook.task(options, "import sys\nsys.exit(3)", fails=RemoteError)
    notebook.task(f'{options} --for "n in [iter([].append, 1)]"', "1")
    notebook.task(f'{options} --for "n in [(i for i in ())]"', "1", fails=NotPicklable)
    assert bool(notebook.clusters) == (options == "")
    assert ("in this process" in capsys.readouterr().out) == (options == "--local")


def test_local_reports_that_it_has_no_timeout(notebook: Notebook, capsys: pytest.CaptureFixture[str]) -> None:
    assert notebook.task("--local --timeout 3", "1") == 1
    assert "(--timeout has no effect with --local)" in capsys.readouterr().out


def test_batch_is_passed_to_the_job_and_has_no_effect_with_local(
    notebook: Notebook, capsys: pytest.CaptureFixture[str]
) -> None:
    assert notebook.task('--batch auto --for "n in range(3)"', "n") == [0, 1, 2]
    assert notebook.app.started[0][1]["batch"] == "auto"
    assert "--batch has" not in capsys.readouterr().out
    assert notebook.task('--batch 2 --local --for "n in range(3)"', "n") == [0, 1, 2]
    assert "(--batch has no effect with --local)" in capsys.readouterr().out


def test_an_interrupt_of_a_local_task_stops_the_job(notebook: Notebook, capsys: pytest.CaptureFixture[str]) -> None:
    notebook.task('--local --for "n in range(4)"', "if n == 1:\n    raise KeyboardInterrupt", fails=KeyboardInterrupt)
    assert "stopped: 1 done, 1 stopped while running, 2 never ran" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("options", "source", "error", "message"),
    [
        ("", "return 3", CellError, "line 2: `return`"),
        ("", "# nothing", CellError, "is empty"),
        ("", "x = = 3", CellError, "invalid syntax (line 2)"),
        ("", "%pwd", CellError, "magics"),
        ("", "stpe", CaptureError, "line 2: stpe is not defined in the notebook; did you mean step?"),
        ("", "get_ipython()", CaptureError, "get_ipython is part of the notebook's shell"),
        ("", "In", CaptureError, "In is the list of inputs"),
        ("", "Out", CaptureError, "Out is the list of outputs"),
        ("", "exit", CaptureError, "exit is part of the notebook's shell"),
        ("", "lock", CaptureError, "lock is a lock"),
        ("", "big", TooLarge, "big (1.0 MiB)"),
        ("--for 'n in'", "n", ConfigurationError, "--for"),
        ("--until 'x ='", "1", ConfigurationError, "--until"),
        ("--until 'stpe'", "1", CaptureError, "--until: stpe is not defined"),
        ("--workers 3", "1", ConfigurationError, "unknown option --workers"),
        ("--local --no-block", "1", ConfigurationError, "--no-block"),
        ("--batch 10", "1", ConfigurationError, "--batch groups the items of --for"),
        ("--batch 0 --for 'n in range(3)'", "n", ConfigurationError, "--batch: needs a whole number"),
        ("--batch 10", "def f(x): return x", ConfigurationError, "--batch: the cell only defines functions"),
        ("--for 'n in stpe'", "1", NameError, "stpe"),
    ],
)
def test_errors_in_a_cell_are_reported_before_anything_starts(
    notebook: Notebook,
    options: str,
    source: str,
    error: type[Exception],
    message: str,
    capsys: pytest.CaptureFixture[str],
) -> None:
    notebook.run("import threading\nstep = 1\nlock = threading.Lock()\nbig = b'x' * (1 << 20)")
    notebook.run("%config ConcurrentMagics.capture_limit_bytes = 10000")
    raised = notebook.task(options, source, fails=error)
    assert message in str(raised)
    assert notebook.clusters == []
    shown = capsys.readouterr().out
    if issubclass(error, ConcurrentError):
        assert "/concurrent_nb/" not in shown
        assert len(shown.strip().splitlines()) <= 4


def test_ipython_s_open_is_not_in_the_way(notebook: Notebook) -> None:
    assert notebook.task("", "with open('/dev/null') as f:\n    text = f.read()\ntext") == ""


def test_a_cell_can_use_earlier_results(notebook: Notebook) -> None:
    notebook.run("[1, 2]")
    assert notebook.task("", "sum(_)") == 3


def test_a_lost_cluster_is_forgotten(notebook: Notebook) -> None:
    notebook.task("", "1")
    notebook.app.lost = True
    notebook.task("", "1", fails=MasterLost)
    assert not notebook.clusters[0].running
    assert notebook.task("", "2") == 2
    assert len(notebook.clusters) == 2


def test_start_status_stop(notebook: Notebook, capsys: pytest.CaptureFixture[str]) -> None:
    notebook.run("%concurrent status")
    notebook.run('%concurrent start --workers 3 --name "mine"')
    notebook.run("k = 5")
    notebook.task("", "k")
    capsys_so_far = capsys.readouterr().out
    assert "no cluster: the next task starts one" in capsys_so_far
    assert "started an embedded cluster named mine: 3 workers (%concurrent stop stops it)" in capsys_so_far
    assert (notebook.clusters[0].workers, notebook.clusters[0].name) == (3, "mine")
    error = notebook.run("%concurrent start", fails=ConfigurationError)
    assert "this notebook already has an embedded cluster named mine of 3 workers; %concurrent stop stops it" in str(
        error
    )
    notebook.run("%concurrent status")
    assert capsys.readouterr().out.splitlines()[-4:] == [
        "an embedded cluster named mine: 3 workers",
        "  slave one: 2 workers, active, 0 in flight, 5 done",
        "  tasks: 0 waiting, 1 with slaves",
        "sent with the last cell: k (value, 16 B)",
    ]
    notebook.run("%concurrent stop")
    notebook.run("%concurrent stop")
    assert capsys.readouterr().out.splitlines() == [
        "stopped an embedded cluster named mine: 3 workers",
        "there is no cluster to stop",
    ]
    assert notebook.app.closed == 1


def test_connect(notebook: Notebook, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    app = FakeApplication()
    monkeypatch.setattr(concurrent_nb, "connect", lambda where: cast(ApplicationNode, app))
    notebook.run("%concurrent connect demo")
    assert notebook.task("", "1") == 1
    assert len(app.started) == 1
    notebook.run("%concurrent stop")
    assert app.closed == 1
    shown = capsys.readouterr().out
    assert shown.startswith("connected to cluster demo (%concurrent stop leaves it)\n")
    assert shown.endswith("left cluster demo, which is still running\n")
    assert notebook.clusters == []


def test_connecting_to_nothing_is_a_clear_error(notebook: Notebook, capsys: pytest.CaptureFixture[str]) -> None:
    notebook.run("%concurrent connect nowhere", fails=ClusterNotFound)
    assert "/notebook/" not in capsys.readouterr().out


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("go", "command: invalid choice: 'go'"),
        ("start now", "start takes no `now`, only connect, kernel, cancel, attach, show, stats, trace or scale does"),
        ("connect", "connect needs the name of the cluster"),
        ("connect a --workers 3", "connect takes no --workers, only start does"),
        ("stop --name x", "stop takes no --name, only start does"),
        ("start --workers 0", "--workers: needs a whole number"),
        ("start --workers abc", "--workers: needs a whole number"),
    ],
)
def test_what_is_wrong_with_a_command_is_named(notebook: Notebook, line: str, message: str) -> None:
    error = notebook.run(f"%concurrent {line}", fails=ConfigurationError)
    assert message in str(error)
    assert notebook.clusters == []


def test_a_start_that_fails_leaves_nothing(notebook: Notebook, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(cluster: FakeCluster) -> FakeApplication:
        raise KeyboardInterrupt

    monkeypatch.setattr(FakeCluster, "application", fail)
    notebook.task("", "1", fails=KeyboardInterrupt)
    assert not notebook.clusters[0].running
    monkeypatch.undo()


def test_needs_go_to_the_job(notebook: Notebook) -> None:
    notebook.task("--needs cores=2", "1")
    assert notebook.clusters[0].app.started[-1][1]["needs"] == Needs(cores=2)
    notebook.task("--needs threads", "1")
    assert notebook.clusters[0].app.started[-1][1]["needs"] == Needs(kind="thread")
    notebook.task("", "1")
    assert notebook.clusters[0].app.started[-1][1]["needs"] is None


def test_needs_of_a_cell_that_defines_functions_go_to_their_tasks(notebook: Notebook) -> None:
    notebook.task("--needs cores=all", "def f(x): return x")
    notebook.run("f.map([1])")
    assert notebook.clusters[0].app.started[-1][1]["needs"] == Needs(cores=0)


def test_unloading_takes_the_magics_away(notebook: Notebook) -> None:
    matchers = notebook.shell.Completer.custom_matchers
    before = len(matchers)
    notebook.task("", "1")
    notebook.run("%unload_ext concurrent_nb")
    assert not notebook.clusters[0].running
    assert "concurrent_task" not in notebook.shell.magics_manager.magics["cell"]
    assert len(matchers) == before - 1
    notebook.run("%load_ext concurrent_nb")
    notebook.run("%reload_ext concurrent_nb")
    assert len(matchers) == before
    assert notebook.task("", "3") == 3


def test_a_setting_that_cannot_be_read_disturbs_cells_with_one_line(
    notebook: Notebook, capsys: pytest.CaptureFixture[str]
) -> None:
    notebook.run("import concurrent_nb\nvalue = 1\nconcurrent_nb.follow('q', lambda: value, print)")
    try:
        capsys.readouterr()
        notebook.run("del value")
        notebook.run("1 + 1")
        printed = capsys.readouterr()
        (line,) = printed.err.splitlines()
        assert "'q'" in line and "NameError" in line and "concurrent_nb.unfollow('q')" in line
        assert "Traceback" not in printed.out
    finally:
        notebook.run("concurrent_nb.unfollow('q')")


def test_after_the_stop_button_the_tasks_that_the_cell_has_left_are_counted(
    notebook: Notebook, capsys: pytest.CaptureFixture[str]
) -> None:
    notebook.task("", "1")
    stop = "app.submits.append((b'job', {}))\nraise KeyboardInterrupt"
    notebook.shell.user_ns["app"] = notebook.app
    notebook.run(stop.format(0), KeyboardInterrupt)
    assert "1 task of this cell still runs on the cluster: %concurrent cancel stops it\n" in capsys.readouterr().out
    notebook.run("%concurrent jobs")
    assert "running  (submits)  1 task not done" in capsys.readouterr().out
    notebook.run("app.submits += [(b'job', 1)]")
    assert "still" not in capsys.readouterr().out  # it was not stopped
    notebook.run("raise KeyboardInterrupt", KeyboardInterrupt)
    assert "still" not in capsys.readouterr().out  # they are of other cells
    notebook.run("%concurrent cancel")
    assert "cancelled 2 submitted tasks" in capsys.readouterr().out
