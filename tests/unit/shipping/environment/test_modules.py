import importlib
import sys
from pathlib import Path

import pytest

from concurrent_nb.shipping.environment import modules
from concurrent_nb.shipping.environment.modules import ImportWatcher, imported_by


@pytest.mark.parametrize(
    ("text", "package", "names"),
    [
        ("import a", "", {"a"}),
        ("import a.b as c, d", "", {"a.b", "d"}),
        ("    import a  # for speed", "", {"a"}),
        ("from a import b", "", {"a", "a.b"}),
        ("from a.b import (c,  # first\n   d as e,\n)", "", {"a.b", "a.b.c", "a.b.d"}),
        ("from . import x", "p.q", {"p.q", "p.q.x"}),
        ("from ..m import x", "p.q", {"p.m", "p.m.x"}),
        ("from .... import x", "p.q", set()),
        ("from . import x", "", set()),
        ("import a, \\\n    b", "", {"a", "b"}),
        ("from a import b, \\\n    c", "", {"a", "a.b", "a.c"}),
        ("if True: pass; x = 1", "", set()),
        ("important = 1\nfrom_here = 2", "", set()),
        ("try:\n    import a\nexcept ImportError:\n    import b; import c", "", {"a", "b"}),
    ],
)
def test_imports_are_seen_in_a_source(text: str, package: str, names: set[str]) -> None:
    assert imported_by(text.encode(), package) == names


def test_imports_are_seen_in_code() -> None:
    code = compile("def f():\n    import a.b\n    def g():\n        from c import d, e\n", "<x>", "exec")
    assert modules.names_imported([code]) == {"a.b", "c", "c.d", "c.e"}


@pytest.fixture
def imports(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> ImportWatcher:
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr(sys, "dont_write_bytecode", True)
    finder = ImportWatcher()
    monkeypatch.setattr(sys, "meta_path", [finder, *sys.meta_path])
    return finder


def test_the_source_is_read_when_a_module_is_imported_and_reloaded(
    imports: ImportWatcher, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "env_unit.py"
    file.write_text("A = 1\n")
    monkeypatch.delitem(sys.modules, "env_unit", raising=False)
    module = importlib.import_module("env_unit")
    file.write_text("A = 'edited'\n")
    spec, text = imports.read["env_unit"]
    assert spec is module.__spec__
    assert text == b"A = 1\n"
    before = imports.count
    importlib.reload(module)
    assert imports.count == before + 1
    assert imports.read["env_unit"] == (module.__spec__, b"A = 'edited'\n")
    del sys.modules["env_unit"]


def test_what_is_not_imported_is_found_without_importing_it(imports: ImportWatcher, tmp_path: Path) -> None:
    (tmp_path / "env_package").mkdir()
    (tmp_path / "env_package" / "__init__.py").write_text("raise SystemExit")
    (tmp_path / "env_package" / "part.py").write_text("raise SystemExit")
    spec = modules.find_unloaded("env_package.part")
    assert spec is not None
    assert spec.origin == str(tmp_path / "env_package" / "part.py")
    assert modules.find_unloaded("env_package.none") is None
    assert modules.find_unloaded("env_none.part") is None
    (tmp_path / "env_package" / "folder").mkdir()  # without an __init__.py
    assert modules.find_unloaded("env_package.folder") is None
    assert not {"env_package", "env_package.part"} & set(sys.modules)


@pytest.mark.parametrize(
    ("text", "is_what_runs"),
    [
        ("X = 1\ndef f(x):\n    return x + 1\n", True),
        ("\n\n# moved\ndef f(x):\n    return x + 1\n", True),
        ("def f(x):\n    return x + 2\n", False),
        ("def f(x):\n    return y + 1\n", False),
        ("def g(x):\n    return x + 1\n", False),
        ("def f(x) return", False),
    ],
)
def test_what_a_module_runs_is_compared_with_a_source(
    imports: ImportWatcher, tmp_path: Path, text: str, is_what_runs: bool
) -> None:
    (tmp_path / "env_runs.py").write_text("def f(x):\n    return x + 1\n")
    module = importlib.import_module("env_runs")
    try:
        assert modules.runs_source(module, text.encode()) is is_what_runs
    finally:
        del sys.modules["env_runs"]
