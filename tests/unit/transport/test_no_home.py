"""A home that cannot be written, or none: its files are in a private temporary folder instead."""

import os
import tempfile
from pathlib import Path

import pytest

from concurrent_nb.errors import AccessRefused
from concurrent_nb.settings import files as settings
from concurrent_nb.transport import connection_file, keys, private_files
from concurrent_nb.transport.connection_file import ConnectionFile

VARIABLES = ("JUPYTER_RUNTIME_DIR", "JUPYTER_DATA_DIR", "JUPYTER_CONFIG_DIR", "XDG_RUNTIME_DIR", "XDG_DATA_HOME")


def info(name: str) -> ConnectionFile:
    return ConnectionFile(
        name=name, endpoints=["http://127.0.0.1:8000"], master_key="k" * 40, tokens={"admin": "t" * 16}, epoch=7
    )


@pytest.fixture(params=["/proc/nowhere", "/dev/null/x", None])
def temporary(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """Set up a home that cannot be written, or no home; return the folder for temporary files."""
    for name in VARIABLES:
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    if request.param is None:

        def expanduser(path: Path) -> Path:
            raise RuntimeError("Could not determine home directory.")

        monkeypatch.setattr(Path, "expanduser", expanduser)
        monkeypatch.setattr(Path, "home", lambda: expanduser(Path("~")))
    monkeypatch.setenv("HOME", request.param or "~")
    return tmp_path


def test_connection_files_are_written_and_found(temporary: Path) -> None:
    path = connection_file.write(info("lab"))
    assert path.is_relative_to(temporary)
    assert path.parent.stat().st_mode & 0o077 == 0
    assert connection_file.names() == ["lab"]
    assert connection_file.read("lab") == info("lab")
    assert connection_file.remove("lab", epoch=7)
    assert connection_file.names() == []


def test_the_user_s_key_is_kept_there(temporary: Path) -> None:
    pair = keys.load_or_create()
    assert keys.default_path().is_relative_to(temporary)
    assert keys.load_or_create() == pair


def test_there_is_no_configuration(temporary: Path) -> None:
    assert settings.load({"MasterNode": {"interval_s": 2.0}}).MasterNode.interval_s == 2.0


def test_a_folder_that_another_user_has_created_is_refused(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    folder = private_files.make_temporary_folder()
    folder.chmod(0o755)
    with pytest.raises(AccessRefused, match="mode 0755"):
        private_files.make_temporary_folder()
    folder.rmdir()
    (tmp_path / "elsewhere").mkdir(mode=0o700)
    folder.symlink_to(tmp_path / "elsewhere")
    with pytest.raises(AccessRefused):
        private_files.make_temporary_folder()


def test_a_home_that_can_be_written_is_used(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("JUPYTER_RUNTIME_DIR", str(tmp_path / "runtime"))
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "tmp"))
    assert connection_file.write(info("lab")) == tmp_path / "runtime" / "concurrent_nb-lab.json"
    assert os.listdir(tmp_path / "runtime") == ["concurrent_nb-lab.json"]
