import importlib
import os
import pickle
import sys
import threading
import types
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from concurrent_nb.errors import ConfigurationError, NotPicklable
from concurrent_nb.shipping.environment.envelope import (
    Environment,
    EnvironmentEnvelope,
    EnvironmentState,
    in_envelope,
    is_envelope,
)
from concurrent_nb.shipping.environment.folder import PATH_BYTES, folder_reader
from concurrent_nb.shipping.environment.modules import ModuleSource
from concurrent_nb.shipping.environment.settings import UserSetting
from concurrent_nb.shipping.environment.tracker import Tracker


@pytest.fixture
def tracker(monkeypatch: pytest.MonkeyPatch) -> Iterator[Tracker]:
    """A tracker to which this process is as it was at its start."""
    tracker = Tracker(dict(os.environ), list(sys.path), os.getcwd(), settings=[])
    tracker.follow_modules(leave_out={name.partition(".")[0] for name in sys.modules})
    yield tracker
    tracker.uninstall()


def state(environment: Environment | None) -> EnvironmentState:
    assert environment is not None
    found = EnvironmentState(*pickle.loads(environment.state))
    found.variables.pop("PYTEST_CURRENT_TEST", None)  # pytest changes it within a test
    return found


def sources(environment: Environment | None) -> dict[str, ModuleSource]:
    assert environment is not None
    return {parts[0]: ModuleSource(*parts) for parts in pickle.loads(environment.modules)}


def test_nothing_is_taken_along_from_the_start(tracker: Tracker) -> None:
    found = tracker.current()
    assert found is None or (state(found), found.modules) == (EnvironmentState("", {}, (), (), b"", b""), b"")


def test_variables_that_were_changed_are_taken_along(tracker: Tracker, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ENV_UNIT", "1")
    assert state(tracker.current()).variables == {"ENV_UNIT": "1"}
    assert tracker.current() is tracker.current()
    monkeypatch.delenv("ENV_UNIT")
    assert state(tracker.current()).variables == {}  # as at the start: Dask sets numbers of threads for a moment
    monkeypatch.setenv("ENV_UNIT", "1")
    tracker.note()  # workers start, and inherit it
    monkeypatch.delenv("ENV_UNIT")
    assert state(tracker.current()).variables == {"ENV_UNIT": None}


def test_the_folder_is_told_once_it_has_changed(
    tracker: Tracker, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    here = os.getcwd()
    monkeypatch.chdir(tmp_path)
    assert state(tracker.current()).folder == str(tmp_path)
    monkeypatch.chdir(here)
    assert state(tracker.current()).folder == here


def test_a_folder_of_any_length_is_read(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    read = folder_reader()
    monkeypatch.chdir(tmp_path)
    assert read() == os.getcwdb()
    while len(os.getcwdb()) <= PATH_BYTES:
        os.mkdir("f" * 200)
        os.chdir("f" * 200)
    assert read() == os.getcwdb()
    for parent in reversed(range(PATH_BYTES // 200 + 2)):  # such paths cannot be removed by their names
        if os.getcwdb() != os.fsencode(tmp_path):
            os.chdir("..")
            os.rmdir("f" * 200)
        assert parent or os.getcwdb() == os.fsencode(tmp_path)


def test_a_thread_that_imports_meanwhile_does_no_harm(tracker: Tracker, monkeypatch: pytest.MonkeyPatch) -> None:
    tracker.current()

    class Importing(dict[str, types.ModuleType]):
        def __reversed__(self) -> Iterator[str]:
            names = super().__reversed__()
            self["env_unit_meanwhile"] = types.ModuleType("env_unit_meanwhile")  # as another thread may
            return names

    monkeypatch.setattr(sys, "modules", Importing(sys.modules))
    assert tracker.current() is tracker.current()


def test_a_folder_that_is_gone_is_no_error(tracker: Tracker, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    gone = tmp_path / "gone"
    gone.mkdir()
    monkeypatch.chdir(gone)
    gone.rmdir()
    environment = tracker.current()
    assert environment is None or state(environment).folder == ""
    assert tracker.current() is environment


def test_entries_of_sys_path_keep_their_places(tracker: Tracker, monkeypatch: pytest.MonkeyPatch) -> None:
    removed = sys.path[-1]
    monkeypatch.setattr(sys, "path", ["/first", *(entry for entry in sys.path if entry != removed), "/last"])
    found = state(tracker.current())
    assert [entry for entry, _ in found.added] == ["/first", "/last"]
    assert found.added[1][1] == ()
    assert found.removed == (removed,)


def write(folder: Path, name: str, text: str) -> Path:
    file = folder / f"{name}.py"
    file.write_text(text)
    importlib.invalidate_caches()
    return file


@pytest.fixture
def folder(tmp_path: Path, tracker: Tracker, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr(sys, "dont_write_bytecode", True)
    tracker.current()
    yield tmp_path
    for name in [name for name in sys.modules if name.startswith("unit_")]:
        del sys.modules[name]


def test_a_module_travels_as_it_was_imported(tracker: Tracker, folder: Path) -> None:
    file = write(folder, "unit_a", "A = 1\n")
    module = importlib.import_module("unit_a")
    file.write_text("A = 2\n")
    assert sources(tracker.current())["unit_a"].text == b"A = 1\n"
    importlib.reload(module)
    assert sources(tracker.current())["unit_a"].text == b"A = 2\n"


def test_a_reload_that_fails_changes_nothing(tracker: Tracker, folder: Path) -> None:
    file = write(folder, "unit_b", "B = 1\n")
    module = importlib.import_module("unit_b")
    before = tracker.current()
    file.write_text("B = = 2\n")
    with pytest.raises(SyntaxError):
        importlib.reload(module)
    assert tracker.current() is before


def test_code_that_was_changed_in_place_is_read_again(tracker: Tracker, folder: Path) -> None:
    file = write(folder, "unit_c", "def f():\n    return 1\n")
    module = importlib.import_module("unit_c")
    tracker.current()
    file.write_text("def f():\n    return 2\n")
    new = types.ModuleType("unit_c")
    exec(file.read_text(), vars(new))
    module.f.__code__ = new.f.__code__
    tracker.cell_begins()
    assert sources(tracker.current())["unit_c"].text == b"def f():\n    return 2\n"


def test_a_module_that_was_imported_unseen_and_edited_is_refused(tracker: Tracker, folder: Path) -> None:
    tracker.uninstall()
    file = write(folder, "unit_d", "def f():\n    return 1\n")
    module = importlib.import_module("unit_d")
    file.write_text("def f():\n    return 2\n")
    with pytest.raises(NotPicklable, match=r"module unit_d was changed on disk.*importlib.reload\(unit_d\)"):
        tracker.current()
    importlib.reload(module)
    assert sources(tracker.current())["unit_d"].text == b"def f():\n    return 2\n"


def test_wanted_modules_are_read_at_each_look_and_their_imports_too(tracker: Tracker, folder: Path) -> None:
    file = write(folder, "unit_e", "import unit_f\n")
    write(folder, "unit_f", "F = 1\n")
    tracker.add_modules(["unit_e", "json.decoder", "unit_none"])
    assert set(sources(tracker.current())) == {"unit_e", "unit_f"}
    file.write_text("E = 1\n")
    assert set(sources(tracker.current())) == {"unit_e"}
    file.unlink()
    assert tracker.current() is None or not (tracker.current() or Environment(b"", b"")).modules
    assert "unit_e" not in sys.modules


def test_what_is_left_out_does_not_travel(tracker: Tracker, folder: Path) -> None:
    write(folder, "unit_g", "G = 1\n")
    importlib.import_module("unit_g")
    assert set(sources(tracker.current())) == {"unit_g"}
    tracker.follow_modules(leave_out=["unit_g"])
    assert not getattr(tracker.current(), "modules", b"")


def test_an_envelope_is_recognised_and_keeps_large_parts_apart() -> None:
    environment = Environment(b"state", b"m" * 100_000)
    body, buffers = in_envelope(environment, b"function", [memoryview(b"a" * 70_000)])
    assert is_envelope(body)
    assert not is_envelope(pickle.dumps(os.getcwd))
    assert [buffer.nbytes for buffer in buffers] == [100_000, 70_000]
    opened: EnvironmentEnvelope = pickle.loads(body, buffers=buffers)
    assert opened.environment is not None
    assert opened.environment.digest == environment.digest
    assert (bytes(opened.body), [bytes(buffer) for buffer in opened.buffers]) == (b"function", [b"a" * 70_000])
    assert in_envelope(None, b"function", ()) == (b"function", ())


def fails() -> object:
    raise NameError("nope")


def ignore(value: object) -> None:
    """Take any value."""


class _Odd:
    def __eq__(self, other: object) -> bool:
        raise ValueError("ambiguous")

    def __reduce__(self) -> tuple[object, ...]:
        return _Odd, ()


@pytest.mark.parametrize(
    ("read", "apply", "reason"),
    [
        (fails, ignore, "NameError: nope"),
        (lambda: open(os.devnull), ignore, "cannot be pickled"),  # noqa: SIM115  (closed when it is collected)
        (_Odd, ignore, "cannot be compared"),
        (3, ignore, "read must be a function"),
        (int, None, "apply must be a function"),
    ],
)
@pytest.mark.filterwarnings("ignore::ResourceWarning", "ignore::pytest.PytestUnraisableExceptionWarning")
def test_a_setting_that_cannot_be_followed_is_refused(tracker: Tracker, read: Any, apply: Any, reason: str) -> None:
    with pytest.raises(ConfigurationError, match=rf"follow\('q'.*{reason}"):
        tracker.follow("q", read, apply)
    tracker.current()
    with pytest.raises(ConfigurationError, match="no setting 'q'"):
        tracker.unfollow("q")


def test_a_reader_that_fails_later_fails_submits_and_disturbs_nothing_else(tracker: Tracker) -> None:
    values: list[object] = [1]
    tracker.follow("q", lambda: values[0], ignore)
    tracker.current()
    values.clear()
    for _ in range(2):
        with pytest.raises(NotPicklable, match=r"setting 'q'.*IndexError.*unfollow\('q'\)"):
            tracker.current()
        assert "unfollow('q')" in tracker.note()
    values.append(open)
    assert tracker.note() == ""
    values[0] = threading.Lock()
    with pytest.raises(NotPicklable, match=r"setting 'q'.*pickled.*unfollow\('q'\)"):
        tracker.current()
    tracker.unfollow("q")
    assert tracker.note() == ""
    tracker.current()


def test_what_a_users_setting_has_replaced_is_followed_again() -> None:
    tracker = Tracker(settings=[UserSetting("built in", int, ignore)])
    tracker.follow("built in", float, ignore)
    tracker.unfollow("built in")
    assert [it.functions[0] for it in tracker._settings if isinstance(it, UserSetting)] == [int]
