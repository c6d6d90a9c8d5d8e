"""The cache of compiled cells: whole files or none, checked, bounded, for its owner alone."""

import os
import tempfile
from pathlib import Path

import pytest

from concurrent_nb.errors import AccessRefused, BuildFailed
from concurrent_nb.shipping.compiled.cache import STALE_S, Cache, default_folder


def nothing() -> None:
    return


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "a" / "cython"


def test_the_folder_is_the_environment_s(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", "/home/x")
    assert default_folder() == Path("/home/x/.cache/concurrent_nb/cython")
    monkeypatch.setenv("XDG_CACHE_HOME", "/caches")
    assert default_folder() == Path("/caches/concurrent_nb/cython")
    monkeypatch.setenv("XDG_CACHE_HOME", "not/absolute")
    assert default_folder() == Path("/home/x/.cache/concurrent_nb/cython")
    monkeypatch.setenv("CONCURRENT_NB_CYTHON_CACHE", "/mine")
    assert default_folder() == Path("/mine")


@pytest.mark.parametrize("home", ["/proc/nowhere", "/dev/null/x", "not/absolute"])
def test_a_home_that_cannot_be_written_is_not_needed(
    home: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv("HOME", home)
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    path = Cache().write_binary("x.so", b"binary")
    assert path.is_relative_to(tmp_path)
    assert Cache().binary("x.so") == path
    assert str(tmp_path) in caplog.text
    monkeypatch.setenv("CONCURRENT_NB_CYTHON_CACHE", "/proc/nowhere/mine")  # who names a folder means it
    with pytest.raises(BuildFailed, match="/proc/nowhere/mine"):
        Cache().write_binary("x.so", b"binary")


def test_what_is_kept_is_found_again(folder: Path) -> None:
    cache = Cache(folder)
    assert cache.read("x.generated") is None
    assert cache.binary("x.so") is None
    cache.write("x.generated", b"abc\ndef")
    path = cache.write_binary("x.so", b"binary")
    assert Cache(folder).read("x.generated") == b"abc\ndef"
    assert Cache(folder).binary("x.so") == path
    assert path.read_bytes() == b"binary"
    assert folder.stat().st_mode & 0o777 == 0o700
    cache.discard("x.so")
    assert cache.binary("x.so") is None
    cache.discard("x.so")


@pytest.mark.parametrize("damage", [b"", b"bin", b"binarz", b"binary and more"])
def test_what_is_damaged_counts_as_missing(folder: Path, damage: bytes) -> None:
    cache = Cache(folder)
    cache.write("x.generated", b"binary")
    cache.write_binary("x.so", b"binary")
    digest = (folder / "x.generated").read_bytes().split(b"\n")[0]
    (folder / "x.generated").write_bytes(digest + b"\n" + damage)
    (folder / "x.so").write_bytes(damage)
    assert cache.read("x.generated") is None
    assert cache.binary("x.so") is None
    (folder / "x.generated").write_bytes(damage)
    assert cache.read("x.generated") is None


def test_a_folder_that_others_can_write_to_is_refused(folder: Path) -> None:
    folder.mkdir(mode=0o700, parents=True)
    folder.chmod(0o770)
    with pytest.raises(AccessRefused, match="chmod 700"):
        Cache(folder).read("x")
    with pytest.raises(AccessRefused, match="CONCURRENT_NB_CYTHON_CACHE"):
        Cache(folder).write_binary("x", b"")


def test_a_folder_that_cannot_be_made_is_told(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(BuildFailed, match="cannot be kept in"):
        Cache(tmp_path / "file" / "cython").read("x")


def test_what_was_not_used_for_longest_goes(folder: Path) -> None:
    cache = Cache(folder, limit_bytes=600)
    for number, name in enumerate(["a.so", "b.so", "c.so"]):
        cache.write_binary(name, b"x" * 100)
        for path in folder.glob(f"{name[0]}.*"):
            os.utime(path, (number, number))
    assert cache.binary("a.so") is not None  # and so it was used
    cache.write_binary("d.so", b"x" * 200)
    cache.write_binary("e.so", b"x" * 10)
    assert cache.binary("b.so") is None
    assert cache.binary("a.so") is not None
    assert cache.binary("e.so") is not None
    assert sum(path.stat().st_size for path in folder.iterdir()) <= 600


def test_what_somebody_began_to_build_and_left_goes_after_an_hour(folder: Path) -> None:
    cache = Cache(folder)
    cache.write_binary("x.so", b"")
    for name in ("new-old", "new-young"):
        (folder / name).mkdir()
        (folder / name / "x.c").touch()
    (folder / "new-file").touch()
    for name in ("new-old", "new-file"):
        os.utime(folder / name, (0, (folder / "new-young").stat().st_mtime - STALE_S - 10))
    cache.write_binary("y.so", b"")
    assert sorted(path.name for path in folder.glob("new-*")) == ["new-young"]


def test_one_builds_at_a_time_and_leaves_nothing(folder: Path) -> None:
    class Impatient(Exception):
        pass

    def leave() -> None:
        raise Impatient

    cache = Cache(folder)
    with cache.building("x", nothing) as place:
        (place / "file").touch()
        with pytest.raises(Impatient), Cache(folder).building("x", leave):
            pytest.fail("two build the same")
        with Cache(folder).building("y", leave) as other:
            assert other != place
    assert [path.name for path in folder.iterdir() if path.name.startswith("new-")] == []
    with pytest.raises(Impatient), cache.building("x", leave) as place:
        raise Impatient
    assert not place.exists()


def test_a_file_that_cannot_be_written_whole_is_not_there(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    cache = Cache(folder)
    cache.write("x", b"old")

    def full(*_: object) -> None:
        raise OSError("no space left")

    monkeypatch.setattr("concurrent_nb.shipping.compiled.cache.os.replace", full)
    with pytest.raises(BuildFailed, match=r"no space left.*CONCURRENT_NB_CYTHON_CACHE"):
        cache.write("x", b"new")
    monkeypatch.undo()
    assert cache.read("x") == b"old"
    assert [path.name for path in folder.iterdir()] == ["x"]
