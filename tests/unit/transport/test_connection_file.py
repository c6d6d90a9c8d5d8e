"""Connection files: written whole, for their owner, found by name or path, refused if invalid."""

import os
import re
import stat
import threading
from pathlib import Path
from typing import Any

import msgspec
import pytest

from concurrent_nb.errors import AccessRefused, ClusterNotFound, ConfigurationError, VersionMismatch
from concurrent_nb.transport import connection_file
from concurrent_nb.transport.connection_file import ConnectionFile

KEY = "rq:rM>}U?@Lns47E1%kR.o@n%FcmmsL/@{H8]yf7"
TOKENS = {"admin": "a" * 43, "client": "c" * 43, "slave": "s" * 43}


def info(**changes: Any) -> ConnectionFile:
    values: dict[str, Any] = {
        "name": "default",
        "endpoints": ["https://192.168.1.5:8000", "https://[fe80::1]:8000"],
        "master_key": KEY,
        "tokens": TOKENS,
        "certificate_pem": "-----BEGIN CERTIFICATE-----",
        "compute_proxy": "127.0.0.1:1080",
        "pid": 42,
        "host": "here",
        "epoch": 3,
    }
    return ConnectionFile(**(values | changes))


@pytest.fixture(autouse=True)
def folder(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """The runtime folder of one test."""
    monkeypatch.setenv("JUPYTER_RUNTIME_DIR", str(tmp_path / "runtime"))
    return tmp_path / "runtime"


def test_what_is_written_is_read(folder: Path) -> None:
    path = connection_file.write(info())
    assert path == folder / "concurrent_nb-default.json"
    assert connection_file.read("default") == info()
    assert connection_file.read(path) == info()
    assert connection_file.read(str(path)) == info()


def test_a_copy_of_the_file_works(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = connection_file.write(info(), tmp_path / "copy.json")
    assert connection_file.read(tmp_path / "copy.json") == info()
    monkeypatch.chdir(tmp_path)
    assert connection_file.read("copy.json") == info()
    assert connection_file.read("./copy.json") == info()
    assert path == tmp_path / "copy.json"


@pytest.mark.parametrize("umask", [0o000, 0o022])
def test_only_the_owner_may_read_it_whatever_the_umask(umask: int) -> None:
    before = os.umask(umask)
    try:
        path = connection_file.write(info())
    finally:
        os.umask(before)
    assert stat.S_IMODE(path.stat().st_mode) == 0o600


def test_it_is_text_that_a_person_can_read() -> None:
    text = connection_file.write(info()).read_text()
    assert '"name": "default"' in text.splitlines()[2]


def test_a_later_master_takes_over_the_name() -> None:
    connection_file.write(info(epoch=1))
    connection_file.write(info(epoch=2))
    assert connection_file.read("default").epoch == 2


def test_a_reader_never_sees_half_a_file(folder: Path) -> None:
    connection_file.write(info(epoch=0))
    over = threading.Event()

    def write() -> None:
        for epoch in range(200):
            connection_file.write(info(epoch=epoch, host="h" * epoch))
        over.set()

    writer = threading.Thread(target=write)
    writer.start()
    while not over.is_set():
        found = connection_file.read("default")
        assert len(found.host) in (4, found.epoch)
    writer.join()
    assert os.listdir(folder) == ["concurrent_nb-default.json"]


def test_the_tokens_are_in_no_repr() -> None:
    assert "ccc" not in f"{info()!r} {info()}"


# -------------------------------------------------------------------------------------------------------------- names


@pytest.mark.parametrize("name", ["a", "A-b_c.9", "x" * 64, "-", "0"])
def test_names_that_clusters_may_have(name: str) -> None:
    connection_file.write(info(name=name))
    assert connection_file.read(name).name == name


@pytest.mark.parametrize("name", ["", ".", "..", ".hidden", "a b", "a/b", "a\0", "a\n", "ü", "x" * 65, "a.json", "a:b"])
def test_names_that_clusters_may_not_have(name: str, folder: Path) -> None:
    with pytest.raises(ConfigurationError, match="cannot name a cluster"):
        connection_file.write(info(name=name))
    with pytest.raises(ConfigurationError, match="cannot name a cluster"):
        connection_file.default_path(name)
    assert not folder.exists()


def test_names_lists_the_clusters(folder: Path) -> None:
    assert connection_file.names() == []
    for name in ("two", "one"):
        connection_file.write(info(name=name))
    for other in ("kernel-1.json", "concurrent_nb-.json", "concurrent_nb-a b.json", ".concurrent_nb-x.json.12"):
        (folder / other).touch()
    assert connection_file.names() == ["one", "two"]


def test_an_unknown_name_lists_the_known_ones(folder: Path) -> None:
    with pytest.raises(ClusterNotFound, match="none"):
        connection_file.read("missing")
    connection_file.write(info(name="one"))
    connection_file.write(info(name="two"))
    with pytest.raises(ClusterNotFound) as caught:
        connection_file.read("missing")
    expected = (
        f"no cluster 'missing': there is no file {folder}/concurrent_nb-missing.json. Clusters in {folder}: one, two"
    )
    assert str(caught.value) == expected


def test_a_missing_file_is_named_in_the_error(tmp_path: Path) -> None:
    with pytest.raises(ClusterNotFound, match=re.escape(f"there is no file {tmp_path}/x.json")):
        connection_file.read(tmp_path / "x.json")


def test_removing() -> None:
    path = connection_file.write(info(epoch=5))
    assert not connection_file.remove("default", epoch=4), "that is the file of a later life of the master"
    assert connection_file.remove("default", epoch=5)
    assert not path.exists()
    assert not connection_file.remove("default", epoch=5)
    assert not connection_file.remove("default")
    connection_file.write(info())
    assert connection_file.remove(path)


# ----------------------------------------------------------------------------------------------------------- refusals


@pytest.mark.parametrize("mode", [0o644, 0o640, 0o604, 0o666])
def test_a_file_that_others_can_read_is_refused_with_the_remedy(mode: int) -> None:
    path = connection_file.write(info())
    path.chmod(mode)
    with pytest.raises(AccessRefused, match=re.escape(f"chmod 600 '{path}'")):
        connection_file.read("default")


def test_a_symbolic_link_is_refused(tmp_path: Path) -> None:
    (tmp_path / "link.json").symlink_to(connection_file.write(info()))
    with pytest.raises(AccessRefused, match="symbolic link"):
        connection_file.read(tmp_path / "link.json")


@pytest.mark.parametrize(
    "change",
    [
        {"name": "../x"},
        {"name": 1},
        {"endpoints": []},
        {"endpoints": "http://127.0.0.1:8000"},
        {"endpoints": ["127.0.0.1:8000"]},
        {"endpoints": ["http://127.0.0.1"]},
        {"endpoints": ["ftp://127.0.0.1:80"]},
        {"endpoints": ["http://127.0.0.1:8000/x"]},
        {"endpoints": ["http://user@127.0.0.1:8000"]},
        {"master_key": "short"},
        {"master_key": None},
        {"tokens": {"admin": "short"}},
        {"tokens": {"admin": "with space and\nmore lines"}},
        {"tokens": ["x"]},
        {"certificate_pem": 1},
        {"compute_proxy": "127.0.0.1"},
        {"compute_proxy": "http://127.0.0.1:1080"},
        {"compute_proxy": "somewhere:port"},
        {"pid": "x"},
    ],
    ids=str,
)
def test_a_file_with_a_wrong_value_is_refused_by_name(change: dict[str, Any]) -> None:
    path = connection_file.write(info())
    path.write_bytes(msgspec.json.encode(msgspec.json.decode(path.read_bytes()) | change))
    with pytest.raises(ConfigurationError) as caught:
        connection_file.read(path)
    assert str(path) in str(caught.value) or "cannot name a cluster" in str(caught.value)
    assert "a" * 43 not in str(caught.value)


@pytest.mark.parametrize("garbage", [b"", b"{", b"[]", b"null", b"\xff", b"[" * 50_000, b"{}", b" " * 70_000])
def test_a_file_of_something_else_is_refused_by_name(garbage: bytes) -> None:
    path = connection_file.write(info())
    path.write_bytes(garbage)
    with pytest.raises(ConfigurationError, match=re.escape(str(path))):
        connection_file.read("default")


def test_every_truncation_is_refused() -> None:
    path = connection_file.write(info())
    whole = path.read_bytes().rstrip()
    for size in range(len(whole)):
        path.write_bytes(whole[:size])
        with pytest.raises(ConfigurationError):
            connection_file.read("default")


def test_a_file_of_a_later_version_is_refused_with_both_versions(folder: Path) -> None:
    path = connection_file.write(info())
    path.write_bytes(b'{"version": 7, "hosts": []}')
    with pytest.raises(VersionMismatch, match="has version 7, this concurrent_nb reads 1"):
        connection_file.read("default")


def test_invalid_content_is_not_written(folder: Path) -> None:
    for wrong in (info(endpoints=[]), info(master_key="x"), info(tokens={"admin": ""})):
        with pytest.raises(ConfigurationError):
            connection_file.write(wrong)
    assert not folder.exists()


def test_a_folder_that_cannot_be_written_is_a_clear_error(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(ConfigurationError, match="cannot be written"):
        connection_file.write(info(), tmp_path / "file" / "x.json")
    (tmp_path / "x.json").mkdir()
    with pytest.raises(ConfigurationError, match="cannot be written"):
        connection_file.write(info(), tmp_path / "x.json")
    assert sorted(os.listdir(tmp_path)) == ["file", "x.json"]


def test_a_folder_in_its_place_is_no_connection_file(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match="is not a file"):
        connection_file.read(tmp_path)
