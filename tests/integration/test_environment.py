"""What tasks see of the process that has sent them: modules, folder, variables, settings. With real clusters."""

import subprocess
import sys
from pathlib import Path

import pytest

import concurrent_nb
from tests import work
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
