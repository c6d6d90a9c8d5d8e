"""A module of others is changed when it has been imported, and only that one."""

import importlib
import sys
import types
from pathlib import Path

import pytest

from concurrent_nb.import_hook import ImportHook


def test_a_module_is_handed_over_when_it_has_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("hooked_module", "other_module"):
        (tmp_path / f"{name}.py").write_text("value = 1\n")
        monkeypatch.delitem(sys.modules, name, raising=False)
    monkeypatch.syspath_prepend(tmp_path)
    imported: list[tuple[str, int]] = []

    def change(module: types.ModuleType) -> None:
        imported.append((module.__name__, module.__dict__["value"]))
        module.__dict__["value"] = 2

    monkeypatch.setattr(sys, "meta_path", [ImportHook("hooked_module", change), *sys.meta_path])
    importlib.import_module("other_module")
    assert importlib.import_module("hooked_module").value == 2
    assert imported == [("hooked_module", 1)]


def test_a_module_that_is_not_there_is_not_found(monkeypatch: pytest.MonkeyPatch) -> None:
    hook = ImportHook("no_such_module_at_all", lambda module: None)
    assert hook.find_spec("no_such_module_at_all", None) is None
    assert hook.find_spec("json", None) is None
