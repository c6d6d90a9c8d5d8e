"""CURVE keys in files: created once, readable by their owner only, refused if the file is invalid."""

import multiprocessing
import os
import re
import stat
from pathlib import Path

import pytest
import zmq
import zmq.auth

from concurrent_nb.errors import AccessRefused, ConfigurationError
from concurrent_nb.transport import keys
from concurrent_nb.transport.keys import KeyPair

AS_ROOT = pytest.mark.skipif(os.geteuid() != 0, reason="only root can give a file away")


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "concurrent_nb" / "keys" / "user.key"


def written(path: Path, public: bytes, secret: bytes) -> Path:
    """Write a key file by hand."""
    path.parent.mkdir(parents=True, mode=0o700, exist_ok=True)
    path.touch(mode=0o600)
    path.write_bytes(b'curve\n    public-key = "%b"\n    secret-key = "%b"\n' % (public, secret))
    return path


def test_zeromq_accepts_a_new_pair() -> None:
    pair = keys.fresh()
    assert zmq.curve_public(pair.secret) == pair.public
    assert keys.fresh() != pair


def test_tokens_are_random_and_long() -> None:
    tokens = {keys.fresh_token() for _ in range(100)}
    assert len(tokens) == 100
    assert all(re.fullmatch(r"[A-Za-z0-9_-]{43}", token) for token in tokens)


def test_a_key_is_created_once_and_read_again(path: Path) -> None:
    pair = keys.load_or_create(path)
    assert keys.load_or_create(path) == pair
    assert keys.load_or_create(str(path)) == pair
    assert os.listdir(path.parent) == ["user.key"]


def test_the_default_place_is_in_jupyters_data_folder(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("JUPYTER_DATA_DIR", str(tmp_path))
    pair = keys.load_or_create()
    assert keys.load_or_create(tmp_path / "concurrent_nb" / "keys" / "user.key") == pair


@pytest.mark.parametrize("umask", [0o000, 0o022, 0o077])
def test_only_the_owner_may_read_it_whatever_the_umask(path: Path, umask: int) -> None:
    before = os.umask(umask)
    try:
        keys.load_or_create(path)
    finally:
        os.umask(before)
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    for folder in (path.parent, path.parent.parent):
        assert stat.S_IMODE(folder.stat().st_mode) == 0o700


def test_the_file_has_the_format_of_zeromqs_own_tools(path: Path) -> None:
    pair = keys.load_or_create(path)
    assert zmq.auth.load_certificate(path) == (pair.public, pair.secret)


def test_a_file_of_zeromqs_own_tools_is_read(tmp_path: Path) -> None:
    _, secret_file = zmq.auth.create_certificates(tmp_path, "mine")
    os.chmod(secret_file, 0o600)
    assert keys.load_or_create(secret_file) == zmq.auth.load_certificate(secret_file)


def test_the_secret_is_in_no_text(path: Path) -> None:
    pair = keys.load_or_create(path)
    assert pair.secret.decode() not in f"{pair!r} {pair!s} {pair} {[pair]}"
    assert pair.public.decode() in repr(pair)


def test_processes_that_create_it_at_once_get_the_same_key(path: Path) -> None:
    with multiprocessing.get_context("fork").Pool(8) as pool:
        pairs = pool.map(keys.load_or_create, [path] * 32, chunksize=1)
        pool.close()
        pool.join()
    assert len(set(pairs)) == 1
    assert os.listdir(path.parent) == ["user.key"]


def test_a_key_that_another_process_created_first_is_used(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fresh_and_late() -> KeyPair:
        other = zmq.curve_keypair()
        written(path, *other)
        return KeyPair(*zmq.curve_keypair())

    monkeypatch.setattr(keys, "fresh", fresh_and_late)
    pair = keys.load_or_create(path)
    assert pair.public in path.read_bytes()
    assert os.listdir(path.parent) == ["user.key"]


def test_it_works_where_there_are_no_hard_links(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def link(*args: object) -> None:
        raise PermissionError(1, "Operation not permitted")

    monkeypatch.setattr(os, "link", link)
    pair = keys.load_or_create(path)
    assert keys.load_or_create(path) == pair
    assert stat.S_IMODE(path.stat().st_mode) == 0o600


# ----------------------------------------------------------------------------------------------------------- refusals


@pytest.mark.parametrize("mode", [0o644, 0o640, 0o604, 0o620, 0o606, 0o777])
def test_a_file_that_others_can_access_is_refused_with_the_remedy(path: Path, mode: int) -> None:
    pair = keys.load_or_create(path)
    path.chmod(mode)
    with pytest.raises(AccessRefused) as caught:
        keys.load_or_create(path)
    assert str(caught.value) == f"{path} has mode {mode:04o}, so others can access it: chmod 600 '{path}'"
    path.chmod(0o600)
    assert keys.load_or_create(path) == pair


@pytest.mark.parametrize("mode", [0o755, 0o750, 0o711, 0o1777])
def test_a_folder_that_others_can_enter_is_refused_with_the_remedy(path: Path, mode: int) -> None:
    keys.load_or_create(path)
    path.parent.chmod(mode)
    with pytest.raises(AccessRefused, match=re.escape(f"chmod 700 '{path.parent}'")):
        keys.load_or_create(path)


@AS_ROOT
def test_a_file_of_another_user_is_refused(path: Path) -> None:
    keys.load_or_create(path)
    os.chown(path, 65534, 65534)
    with pytest.raises(AccessRefused, match="belongs to user 65534, and we are user 0"):
        keys.load_or_create(path)


@AS_ROOT
def test_a_folder_of_another_user_is_refused(path: Path) -> None:
    keys.load_or_create(path)
    os.chown(path.parent, 65534, 65534)
    with pytest.raises(AccessRefused, match="belongs to user 65534"):
        keys.load_or_create(path)


@pytest.mark.parametrize("exists", [True, False])
def test_a_symbolic_link_is_refused(path: Path, tmp_path: Path, exists: bool) -> None:
    other = tmp_path / "other" / "user.key"
    if exists:
        keys.load_or_create(other)
    path.parent.mkdir(parents=True, mode=0o700)
    path.symlink_to(other)
    with pytest.raises(AccessRefused, match="symbolic link"):
        keys.load_or_create(path)
    assert other.exists() == exists


PAIR = KeyPair(*zmq.curve_keypair())
OTHER = KeyPair(*zmq.curve_keypair())


@pytest.mark.parametrize(
    ("public", "secret"),
    [
        (PAIR.secret, PAIR.public),
        (PAIR.public, OTHER.secret),
        (PAIR.public, b""),
        (PAIR.public, PAIR.secret[:39]),
        (PAIR.public, PAIR.secret + b"0"),
        (PAIR.public, b"~" * 40),
        (b"", PAIR.secret),
        (PAIR.public.hex().encode(), PAIR.secret.hex().encode()),
    ],
    ids=["swapped", "mixed", "no secret", "short", "long", "not z85", "no public", "hex"],
)
def test_a_file_with_invalid_keys_is_refused(path: Path, public: bytes, secret: bytes) -> None:
    written(path, public, secret)
    with pytest.raises(ConfigurationError, match="is damaged") as caught:
        keys.load_or_create(path)
    assert str(path) in str(caught.value)
    assert PAIR.secret.decode() not in str(caught.value)


def test_every_truncation_of_the_file_is_refused(path: Path) -> None:
    keys.load_or_create(path)
    whole = path.read_bytes()
    last = whole.rindex(b'"')
    for size in range(last):
        path.write_bytes(whole[:size])
        with pytest.raises(ConfigurationError, match="is damaged"):
            keys.load_or_create(path)


@pytest.mark.parametrize("garbage", [b"", b"\0" * 100, b"\xff\xfe", b"{}", b"x" * 70_000], ids=range(5))
def test_a_file_of_something_else_is_refused_and_kept(path: Path, garbage: bytes) -> None:
    written(path, b"", b"").write_bytes(garbage)
    with pytest.raises(ConfigurationError, match=re.escape(str(path))):
        keys.load_or_create(path)
    assert path.read_bytes() == garbage


def test_a_path_that_is_no_file_is_refused(path: Path) -> None:
    path.mkdir(parents=True, mode=0o700)
    path.parent.chmod(0o700)
    with pytest.raises(ConfigurationError, match="is not a file"):
        keys.load_or_create(path)
    pipe = path.parent / "pipe"
    os.mkfifo(pipe, 0o600)
    with pytest.raises(ConfigurationError, match="is not a file"):
        keys.load_or_create(pipe)


def test_a_path_that_cannot_be_written_is_a_clear_error(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(ConfigurationError, match="cannot be written"):
        keys.load_or_create(tmp_path / "file" / "keys" / "user.key")
