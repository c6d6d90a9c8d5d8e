"""What a launcher gives to a slave: two lines, and nothing of what follows them."""

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from concurrent_nb.errors import AccessRefused, ConfigurationError, VersionMismatch
from concurrent_nb.ids import INITIALIZER_VARIABLE
from concurrent_nb.nodes.common import launch_lines
from concurrent_nb.nodes.common.launch_lines import (
    provide_initializer,
    read_configuration,
    read_configuration_file,
    read_launch,
    write_configuration,
)
from concurrent_nb.transport import private_files
from concurrent_nb.transport.connection_file import ConnectionFile, in_one_line

INFO = ConnectionFile(
    name="lab",
    endpoints=["https://10.0.0.1:4711"],
    master_key="0" * 40,
    tokens={"slave": "a-token-of-sixteen-characters"},
    compute_endpoint="127.0.0.1:4712",
)


@pytest.fixture
def pipe() -> Iterator[tuple[int, int]]:
    ends = os.pipe()
    yield ends
    for end in ends:
        os.close(end)


def test_both_lines_are_read_and_the_lease_is_not(pipe: tuple[int, int]) -> None:
    configuration = write_configuration({"SlaveNode": {"workers": 3}}, b"\x80a call")
    os.write(pipe[1], f"{in_one_line(INFO)}\n{configuration}\ndrain\n".encode())
    assert read_launch(pipe[0]) == (INFO, ({"SlaveNode": {"workers": 3}}, b"\x80a call"))
    assert os.read(pipe[0], 100) == b"drain\n"


def test_an_owner_that_has_ended_wants_no_slave() -> None:
    reading, writing = os.pipe()
    os.write(writing, f"{in_one_line(INFO)}\n".encode())
    os.close(writing)
    assert read_launch(reading) is None
    os.close(reading)


def test_an_endless_line_is_refused(pipe: tuple[int, int], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(launch_lines, "LINE_BYTES_MAX", 100)
    os.write(pipe[1], b"x" * 200)
    with pytest.raises(ConfigurationError, match="more than"):
        read_launch(pipe[0])


@pytest.mark.parametrize(
    ("line", "error"),
    [(b"hello", ConfigurationError), (b"{}", ConfigurationError), (b'{"version": 99}', VersionMismatch)],
)
def test_a_wrong_connection_is_named(pipe: tuple[int, int], line: bytes, error: type[Exception]) -> None:
    os.write(pipe[1], line + b"\n{}\n")
    with pytest.raises(error, match="the first line of standard input"):
        read_launch(pipe[0])


@pytest.mark.parametrize("text", [b"[]", b"no", b'{"SlaveNode": 3}', b'{"initializer": "*"}', b'{"initializer": 3}'])
def test_a_wrong_configuration_is_named(text: bytes) -> None:
    with pytest.raises(ConfigurationError, match="the file is no configuration of a slave"):
        read_configuration(text, "the file")


def test_an_empty_configuration_is_none() -> None:
    assert read_configuration(b"", "") == ({}, b"")


def test_a_configuration_file_must_be_private(tmp_path: Path) -> None:
    path = tmp_path / "configuration.json"
    with pytest.raises(ConfigurationError, match="there is no configuration file"):
        read_configuration_file(path)
    path.write_text(write_configuration({"SlaveNode": {"workers": 2}}))
    path.chmod(0o644)
    with pytest.raises(AccessRefused):
        read_configuration_file(path)
    path.chmod(0o600)
    assert read_configuration_file(path).sections == {"SlaveNode": {"workers": 2}}


def test_a_configuration_file_may_have_a_large_initializer(tmp_path: Path) -> None:
    """As large as on standard input: a call whose arguments are a table."""
    path, initializer = tmp_path / "configuration.json", bytes(1024 * 1024)
    private_files.replace_private(path, write_configuration({}, initializer).encode())
    assert read_configuration_file(path).initializer == initializer


def test_workers_inherit_the_initializer(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(INITIALIZER_VARIABLE, raising=False)
    provide_initializer(b"")
    assert INITIALIZER_VARIABLE not in os.environ
    monkeypatch.setenv(INITIALIZER_VARIABLE, "")  # so that it is undone
    provide_initializer(b"a call" * 1000)
    descriptor = int(os.environ[INITIALIZER_VARIABLE])
    assert os.get_inheritable(descriptor)
    assert os.pread(descriptor, 10_000, 0) == b"a call" * 1000
    os.close(descriptor)
