"""What tasks see of the process that has sent them: modules, folder, variables, settings. With real clusters."""

import decimal
import gc
import importlib
import logging
import os
import shutil
import signal
import subprocess
import sys
import sysconfig
import types
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

import concurrent_nb
from concurrent_nb import ApplicationNode, Cluster, Needs
from concurrent_nb.errors import FunctionNotLoadable, NotPicklable
from concurrent_nb.tasks.system import Task
from tests import work
from tests.clusters import shared_cluster
from tests.work import PATIENCE_S

#: modules of the standard library that nodes, workers or their libraries import
STANDARD = (
    *("copy", "email", "enum", "inspect", "io", "json", "logging", "pickle", "platform", "queue", "random", "secrets"),
    *("select", "selectors", "signal", "socket", "string", "struct", "tempfile", "threading", "token", "types", "uuid"),
)


@pytest.fixture
def shadowed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Work in a folder whose files have the names of standard modules."""
    for name in STANDARD:
        (tmp_path / f"{name}.py").write_text("raise SystemExit('this is a file of the user')\n")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_a_cluster_starts_beside_files_named_like_standard_modules(shadowed: Path) -> None:
    with concurrent_nb.Cluster(workers=1) as cluster:
        app = cluster.application()
        assert app.submit(work.square, 7).result(PATIENCE_S) == 49
        assert app.submit(lambda: __import__("random").randrange(1)).result(PATIENCE_S) == 0


def test_the_command_line_works_beside_them(shadowed: Path) -> None:
    command = [str(Path(sys.executable).parent / "concurrent-nb"), "--help"]
    ended = subprocess.run(command, cwd=shadowed, capture_output=True, text=True, timeout=PATIENCE_S)
    assert ended.returncode == 0, ended.stderr


# ------------------------------------------------------------------------------------------------------- one cluster


@pytest.fixture(scope="module")
def cluster() -> Iterator[Cluster]:
    with shared_cluster(workers=2) as cluster:
        app = cluster.application()
        app.push_task(Report("os")).exception(PATIENCE_S)  # now the thread of callbacks is there
        app.start_job(os.getpid, [()], needs=Needs(kind="thread")).results(PATIENCE_S)  # and the process of threads
        yield cluster


@pytest.fixture
def app(cluster: Cluster) -> ApplicationNode:
    return cluster.application()


class Folder:
    """A folder of the user's, late on sys.path; what is written there can be imported."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def write(self, name: str, text: str) -> Path:
        file = self.path / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text)
        importlib.invalidate_caches()
        return file


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Folder]:
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr(sys, "dont_write_bytecode", True)
    before = set(sys.modules)
    yield Folder(tmp_path)
    for name in set(sys.modules) - before:
        if str(getattr(sys.modules[name], "__file__", "")).startswith(str(tmp_path)):
            del sys.modules[name]


def imported(name: str) -> Any:
    return importlib.import_module(name)


def on_all(app: ApplicationNode, fn: Any, *args: Any) -> set[Any]:
    """Give what the function gives in many tasks, on both workers."""
    return set(app.map(lambda _: fn(*args), range(40), chunksize=1))


# -------------------------------------------------------------------------------------------------------- modules


def test_a_module_is_what_this_process_runs(app: ApplicationNode, folder: Folder) -> None:
    file = folder.write("env_model.py", "RATE = 1\ndef cost(x):\n    return x * RATE\n")
    model = imported("env_model")
    cost = model.cost
    assert on_all(app, model.cost, 2) == {2}
    assert app.submit(model.cost, 2).result(PATIENCE_S) == 2
    # Edited and not reloaded: here and there it is the old one.
    file.write_text("RATE = 100\ndef cost(x):\n    return x * RATE + 1\n")
    assert on_all(app, lambda x: model.cost(x), 2) == {model.cost(2)} == {2}
    # Reloaded: here and there it is the new one; what was taken from the old one stays old.
    importlib.reload(model)
    assert app.submit(model.cost, 2).result(PATIENCE_S) == 201
    assert on_all(app, lambda x: model.cost(x), 2) == {201}
    assert on_all(app, lambda x: cost(x), 2) == {cost(2)}
    # Deleted on disk, as on another host: it comes by content, with its lines.
    file.write_text("def cost(x):\n    raise ValueError('line two')\n")
    importlib.reload(model)
    file.unlink()
    error = app.submit(model.cost, 2).exception(PATIENCE_S)
    assert isinstance(error, ValueError)
    assert "raise ValueError('line two')" in str(error.__cause__)


def test_going_back_to_a_former_version_goes_back(app: ApplicationNode, folder: Folder) -> None:
    texts = [f"import os\nANSWER = {n}\ndef answer():\n    return ANSWER\n" for n in (1, 2)]
    file = folder.write("env_back.py", texts[0])
    module = imported("env_back")
    for n in (0, 1, 0, 1):
        file.write_text(texts[n])
        importlib.reload(module)
        assert on_all(app, lambda: module.answer()) == {n + 1}


def test_packages_travel_whole_with_what_they_import(app: ApplicationNode, folder: Folder) -> None:
    folder.write("env_pkg/__init__.py", "from .a import f\n")
    folder.write("env_pkg/a.py", "from env_pkg import b\ndef f(x):\n    from .late import g\n    return g(b.B * x)\n")
    folder.write("env_pkg/b.py", "B = 10\n")
    late = folder.write("env_pkg/late.py", "import env_other as o\ndef g(x):\n    return x + o.ONE\n")
    folder.write("env_other.py", "ONE = 1\n")
    package = imported("env_pkg")
    assert "env_pkg.late" not in sys.modules
    assert on_all(app, package.f, 2) == {21}
    # What is not imported here yet is read from its file, each time.
    late.write_text("import env_other as o\ndef g(x):\n    return x + 1000 * o.ONE\n")
    assert on_all(app, package.f, 2) == {1020}
    shutil.rmtree(folder.path / "env_pkg")
    folder.write("env_pkg/late.py", late.name and "import env_other as o\ndef g(x):\n    return -x\n")
    assert on_all(app, package.f, 2) == {-20}


def test_imports_in_functions_travel_too(app: ApplicationNode, folder: Folder) -> None:
    file = folder.write("env_inner.py", "VALUE = 1\n")

    def f(_: int) -> int:
        import env_inner  # type: ignore[import-not-found]

        return int(env_inner.VALUE)

    assert set(app.map(f, range(20), chunksize=1)) == {1}
    file.write_text("VALUE = 22\n")
    assert set(app.map(f, range(20), chunksize=1)) == {22}
    assert "env_inner" not in sys.modules


def test_what_is_imported_by_path_is_not_kept_when_its_file_changes(app: ApplicationNode, folder: Folder) -> None:
    file = folder.write("env_dynamic.py", "VALUE = 1\n")
    name = "_".join(["env", "dynamic"])  # nothing can see which module that is
    assert on_all(app, lambda: importlib.import_module(name).VALUE) == {1}
    file.write_text("VALUE = 22\n")
    assert on_all(app, lambda: importlib.import_module(name).VALUE) == {22}


def test_classes_of_modules_go_there_and_come_home(app: ApplicationNode, folder: Folder) -> None:
    file = folder.write("env_things.py", "class Thing:\n    def __init__(self, x):\n        self.x = x\n    K = 1\n")
    things = imported("env_things")

    def work_on(thing: Any) -> Any:
        return type(thing)(thing.x * thing.K)

    back = app.submit(work_on, things.Thing(3)).result(PATIENCE_S)
    assert type(back) is things.Thing
    assert back.x == 3
    file.write_text("class Thing:\n    def __init__(self, x):\n        self.x = x\n    K = 50\n")
    importlib.reload(things)
    backs = list(app.map(work_on, [things.Thing(3)] * 8, chunksize=1))
    assert {type(it) for it in backs} == {things.Thing}
    assert {it.x for it in backs} == {150}


class Report(Task):
    """A task object that uses a module."""

    def __init__(self, name: str) -> None:
        super().__init__()
        self.name = name

    def __call__(self) -> Any:
        return importlib.import_module(self.name).VALUE, os.environ.get("ENV_TEST")


def test_task_objects_have_it_too(app: ApplicationNode, folder: Folder, monkeypatch: pytest.MonkeyPatch) -> None:
    file = folder.write("env_pushed.py", "VALUE = 1\n")
    module = imported("env_pushed")
    assert app.push_task(Report("env_pushed")).result(PATIENCE_S) == (1, None)
    file.write_text("VALUE = 22\n")
    importlib.reload(module)
    monkeypatch.setenv("ENV_TEST", "set")
    assert app.push_task(Report("env_pushed")).result(PATIENCE_S) == (22, "set")
    assert set(app.push_tasks([Report("env_pushed") for _ in range(10)]).results(PATIENCE_S)) == {(22, "set")}


def test_threads_share_one_environment_at_a_time(
    app: ApplicationNode, folder: Folder, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = folder.write("env_threads.py", "VALUE = 1\n")
    module = imported("env_threads")

    def look(_: int) -> Any:
        return module.VALUE, os.environ.get("ENV_TEST"), str(np.geterr()["divide"])

    first = app.start_job(look, [(n,) for n in range(20)], needs=Needs(kind="thread"))
    file.write_text("VALUE = 22\n")
    importlib.reload(module)
    monkeypatch.setenv("ENV_TEST", "set")
    with np.errstate(divide="raise"):
        second = app.start_job(look, [(n,) for n in range(20)], needs=Needs(kind="thread"))
    assert set(first.results(PATIENCE_S)) == {(1, None, "warn")}
    assert set(second.results(PATIENCE_S)) == {(22, "set", "raise")}


def test_too_much_is_refused_by_name(app: ApplicationNode, folder: Folder) -> None:
    folder.write("env_large.py", f"TEXT = {'x' * 50_000!r}\n")
    imported("env_large")
    try:
        concurrent_nb.follow_modules(limit_bytes=20_000)
        error = app.submit(os.getpid).exception(PATIENCE_S)
        assert isinstance(error, NotPicklable)
        assert "env_large (48.8 KiB)" in str(error)
        assert "follow_modules" in str(error)
        concurrent_nb.follow_modules(limit_bytes=32 << 20)
        assert app.submit(os.getpid).result(PATIENCE_S)
    finally:
        concurrent_nb.follow_modules(limit_bytes=32 << 20)


def test_a_compiled_module_of_the_users_is_the_one_that_was_imported(app: ApplicationNode, folder: Folder) -> None:
    suffix = sysconfig.get_config_var("EXT_SUFFIX")
    name, found = next(
        (file.name.removesuffix(suffix), file)
        for path in sys.path
        for file in Path(path).glob(f"*{suffix}")
        if path.endswith("lib-dynload") and file.name.removesuffix(suffix) in ("_testbuffer", "xxlimited")
    )
    there = folder.path / found.name
    shutil.copy(found, there)
    sys.modules.pop(name, None)
    module = imported(name)
    assert module.__file__ == str(there)

    def where() -> Any:
        return importlib.import_module(name).__file__

    assert on_all(app, where) == {str(there)}
    os.utime(there, (1, 1))
    del sys.modules[name]
    imported(name)
    with pytest.raises(FunctionNotLoadable, match=f"{name} is a compiled module that has changed.*restart the cluster"):
        app.submit(where).result(PATIENCE_S)
    del sys.modules[name]


def test_a_module_that_is_missing_is_explained(app: ApplicationNode) -> None:
    error = app.submit(lambda: importlib.import_module("no_such_module_at_all")).exception(PATIENCE_S)
    assert isinstance(error, ModuleNotFoundError)
    assert "module no_such_module_at_all was not found on host" in str(error.__notes__)


# ------------------------------------------------------------------------------------- folder, variables and sys.path


def test_folder_and_variables_are_those_of_now(
    app: ApplicationNode, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "here.txt").write_text("content")
    monkeypatch.setenv("ENV_TEST", "one")
    monkeypatch.chdir(tmp_path)

    def look() -> Any:
        return os.getcwd(), Path("here.txt").read_text(), os.environ.get("ENV_TEST"), os.environ.get("ENV_GONE")

    assert on_all(app, look) == {(str(tmp_path), "content", "one", None)}
    assert app.submit(os.getcwd).result(PATIENCE_S) == str(tmp_path)
    monkeypatch.setenv("ENV_TEST", "two")
    monkeypatch.setenv("ENV_GONE", "soon")
    assert app.submit(os.getenv, "ENV_GONE").result(PATIENCE_S) == "soon"
    monkeypatch.delenv("ENV_GONE")
    assert on_all(app, look) == {(str(tmp_path), "content", "two", None)}
    error = app.submit(lambda: open("nothing.txt")).exception(PATIENCE_S)  # noqa: SIM115
    assert isinstance(error, FileNotFoundError)
    assert f"the task's folder is {tmp_path}, on host" in str(error.__notes__)


def test_what_was_there_at_the_start_can_be_taken_away(app: ApplicationNode, monkeypatch: pytest.MonkeyPatch) -> None:
    name = next(name for name in ("LANG", "USER", "HOME", "PATH") if name in os.environ)
    monkeypatch.delenv(name)
    assert app.submit(os.getenv, name).result(PATIENCE_S) is None
    monkeypatch.undo()
    assert app.submit(os.getenv, name).result(PATIENCE_S) == os.environ[name]


def test_sys_path_follows(app: ApplicationNode, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    entries = [str(tmp_path / "first"), str(tmp_path / "last")]
    for entry in entries:
        Path(entry).mkdir()
    monkeypatch.setattr(sys, "path", [entries[0], *sys.path, entries[1]])
    there = app.submit(lambda: list(sys.path)).result(PATIENCE_S)
    assert there[0] == entries[0]
    assert there[-1] == entries[1]
    monkeypatch.undo()
    assert not set(entries) & set(app.submit(lambda: list(sys.path)).result(PATIENCE_S))


def test_what_tasks_change_is_put_back(app: ApplicationNode) -> None:
    def spoil(_: int) -> None:
        os.environ["ENV_SPOILED"] = "1"
        os.environ.pop("PATH", None)
        os.chdir("/")
        sys.path.insert(0, "/spoiled")
        sys.setrecursionlimit(5000)
        warnings.simplefilter("error")
        logging.basicConfig(level=logging.DEBUG)
        logging.getLogger("env.spoiled").setLevel(logging.DEBUG)
        decimal.getcontext().prec = 3
        np.seterr(all="raise")
        np.set_printoptions(precision=2)
        pd.set_option("display.max_rows", 3)

    def look() -> Any:
        return (
            os.environ.get("ENV_SPOILED"),
            os.environ["PATH"],
            os.getcwd(),
            tuple(sys.path),
            sys.getrecursionlimit(),
            len([f for f in warnings.filters if f[0] == "error"]),
            logging.getLogger().level,
            len(logging.getLogger().handlers),
            logging.getLogger("env.spoiled").level,
            decimal.getcontext().prec,
            np.geterr()["divide"],
            np.get_printoptions()["precision"],
            pd.get_option("display.max_rows"),
        )

    before = on_all(app, look)
    assert len(before) == 1
    list(app.map(spoil, range(20), chunksize=1))
    assert on_all(app, look) == before
    list(app.map(spoil, range(20), chunksize=1))
    assert on_all(app, look) == before


def test_the_next_job_of_the_same_function_finds_nothing_of_the_last(app: ApplicationNode) -> None:
    def note(_: int) -> tuple[str | None, str]:
        before = os.environ.get("ENV_NOTED"), os.getcwd()
        os.environ["ENV_NOTED"] = "1"
        os.chdir("/")
        return before

    for _ in range(3):
        found = set(app.map(note, range(20), chunksize=1))
        assert {folder for _, folder in found} == {os.getcwd()}  # each task begins there
        assert (None, os.getcwd()) in found  # the first in a worker
    assert app.submit(os.environ.get, "ENV_NOTED").result(PATIENCE_S) is None


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has neither limits of open files nor this signal")
def test_the_next_job_finds_the_process_as_it_was(app: ApplicationNode) -> None:
    def spoil(_: int) -> None:
        import resource

        resource.setrlimit(resource.RLIMIT_NOFILE, (8, resource.getrlimit(resource.RLIMIT_NOFILE)[1]))
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        os.umask(0o777)
        gc.disable()

    def look(_: int) -> tuple[Any, ...]:
        mask = os.umask(0)
        os.umask(mask)
        return signal.getsignal(signal.SIGTERM), mask, gc.isenabled(), Path(__file__).read_text() != ""

    before = set(app.map(look, range(20), chunksize=1))
    list(app.map(spoil, range(20), chunksize=1))
    assert set(app.map(look, range(20), chunksize=1)) == before


# ------------------------------------------------------------------------------------------------------------ settings


def _settings() -> Any:
    import decimal

    import numpy as np
    import pandas as pd

    with np.errstate():
        errors = np.geterr()["divide"]
    return (
        any(action == "ignore" and kind is UserWarning for action, _, kind, _, _ in warnings.filters),
        errors,
        str(np.array([1.23456789])),
        pd.get_option("display.max_columns"),
        decimal.Decimal(1) / 3,
        sys.getrecursionlimit(),
        logging.getLogger("env.test").getEffectiveLevel(),
    )


def test_settings_are_those_of_now(app: ApplicationNode) -> None:
    before = _settings()
    assert on_all(app, _settings) == {before}
    limit = sys.getrecursionlimit()
    with (
        warnings.catch_warnings(),
        np.errstate(divide="raise"),
        np.printoptions(precision=2),
        pd.option_context("display.max_columns", 7),
        decimal.localcontext(decimal.Context(prec=5)),
    ):
        warnings.simplefilter("ignore", UserWarning)
        sys.setrecursionlimit(limit + 345)
        logging.getLogger("env.test").setLevel(logging.DEBUG)
        try:
            now = _settings()
            assert on_all(app, _settings) == {now}
        finally:
            sys.setrecursionlimit(limit)
            logging.getLogger("env.test").setLevel(logging.NOTSET)
    assert now != before
    assert all(one != other for one, other in zip(now, before, strict=True))
    assert on_all(app, _settings) == {before}


def test_a_level_stays_when_a_task_imports_the_module_that_sets_another(app: ApplicationNode, folder: Folder) -> None:
    log = "import logging\nlog = logging.getLogger(__name__)\n"
    for number, wanted in enumerate((logging.ERROR, logging.DEBUG)):
        name = f"env_talks_{number}"
        folder.write(f"{name}.py", f"{log}log.setLevel(logging.INFO)\ndef level():\n    return log.level\n")
        talks = imported(name)
        talks.log.setLevel(wanted)
        try:
            assert app.submit(talks.level).result(PATIENCE_S) == wanted
            assert on_all(app, talks.level) == {wanted}
        finally:
            talks.log.setLevel(logging.NOTSET)


def test_log_lines_have_the_format_of_here(app: ApplicationNode, capfd: pytest.CaptureFixture[str]) -> None:
    root = logging.getLogger()
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(logging.Formatter("LOG %(levelname)s %(name)s %(message)s"))
    root.addHandler(handler)
    level = root.level
    root.setLevel(logging.INFO)
    try:
        app.submit(lambda: logging.getLogger("mine").info("from a task")).result(PATIENCE_S)
    finally:
        root.removeHandler(handler)
        root.setLevel(level)
    app.submit(lambda: logging.getLogger("mine").info("not to be seen")).result(PATIENCE_S)
    error = capfd.readouterr().err
    assert "LOG INFO mine from a task" in error
    assert "not to be seen" not in error


def test_a_setting_of_the_users_follows(app: ApplicationNode, folder: Folder) -> None:
    folder.write("env_setting.py", "LEVEL = [0]\ndef get():\n    return LEVEL[0]\ndef put(x):\n    LEVEL[0] = x\n")
    module = imported("env_setting")
    concurrent_nb.follow("env_setting", module.get, module.put)
    try:
        assert app.submit(module.get).result(PATIENCE_S) == 0
        module.put(7)
        assert on_all(app, lambda: module.get()) == {7}
        list(app.map(lambda n: module.put(n), range(10), chunksize=1))
        assert on_all(app, lambda: module.get()) == {7}
        module.put(0)
        assert on_all(app, lambda: module.get()) == {0}
    finally:
        concurrent_nb.unfollow("env_setting")


def test_a_reader_that_fails_in_workers_is_named_by_each_task(app: ApplicationNode, folder: Folder) -> None:
    folder.write("env_owner.py", f"import os\ndef get():\n    return 1 if os.getpid() == {os.getpid()} else nope\n")
    concurrent_nb.follow("only here", imported("env_owner").get, lambda value: None)
    try:
        for _ in range(4):  # each worker refuses each of them
            with pytest.raises(FunctionNotLoadable, match=r"`read` of the setting 'only here'.*NameError"):
                app.submit(abs, -3).result(PATIENCE_S)
    finally:
        concurrent_nb.unfollow("only here")
    assert app.submit(abs, -3).result(PATIENCE_S) == 3


def test_a_process_without_changes_sends_functions_as_they_are() -> None:
    program = """
        import os
        from concurrent_nb.shipping.environment.tracker import TRACKER
        TRACKER.install()
        assert TRACKER.current() is None, TRACKER.current()
        os.environ["X"] = "1"
        first = TRACKER.current()
        assert first is not None and TRACKER.current() is first
        os.environ["X"] = "2"
        assert TRACKER.current() is not first
        os.environ["X"] = "1"
        assert TRACKER.current() is first
    """
    code = "\n".join(line.strip() for line in program.splitlines())
    subprocess.run([sys.executable, "-c", code], check=True, timeout=PATIENCE_S)


def test_modules_of_the_users_are_told_from_others() -> None:
    from concurrent_nb.shipping.environment.origin import is_users

    here = sys.modules[__name__]
    assert is_users(__name__, here.__spec__)
    for module in (os, np, concurrent_nb, types):
        assert not is_users(module.__name__, module.__spec__)
