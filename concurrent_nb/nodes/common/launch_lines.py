"""The input of a slave that a launcher starts: two lines of JSON on its standard input, or two files.

    connection      content of the connection file, in one line
    configuration   {"SlaveNode": {"workers": 8}, "initializer": "..."}; the initializer, in Base64, may be missing

Behind the two lines, standard input is the slave's lease: the line DRAIN has it leave, the end of file ends it.
"""

import base64
import os
from pathlib import Path
from typing import Any, Final, NamedTuple

import msgspec

from concurrent_nb.errors import ConfigurationError
from concurrent_nb.ids import INITIALIZER_VARIABLE
from concurrent_nb.transport import connection_file, private_files
from concurrent_nb.transport.connection_file import ConnectionFile
from concurrent_nb.workers.protocol.anonymous_file import make_anonymous_file

#: a longer line, or a larger file, is refused: an initializer is a function, not data
LINE_BYTES_MAX: Final = 64 * 1024 * 1024
#: besides the sections
INITIALIZER: Final = "initializer"


class SlaveConfiguration(NamedTuple):
    """What a slave is configured with."""

    sections: dict[str, dict[str, Any]]
    initializer: bytes  #: a pickled call; b"" if there is none


def write_configuration(sections: dict[str, dict[str, Any]], initializer: bytes = b"") -> str:
    """Return a configuration as a line."""
    added = {INITIALIZER: base64.b64encode(initializer).decode()} if initializer else {}
    return msgspec.json.encode({**sections, **added}).decode()


def read_configuration(data: bytes, where: str) -> SlaveConfiguration:
    """Read a configuration; `where` names it in errors. Raises ConfigurationError."""
    try:
        found = msgspec.json.decode(data or b"{}", type=dict[str, Any])
        initializer = base64.b64decode(found.pop(INITIALIZER, ""), validate=True)
        sections = msgspec.convert(found, dict[str, dict[str, Any]])
    except (ValueError, TypeError) as error:
        raise ConfigurationError(f"{where} is no configuration of a slave: {error}") from None
    return SlaveConfiguration(sections, initializer)


def read_configuration_file(path: Path) -> SlaveConfiguration:
    """Read a configuration from a file that only its owner can read. Raises ConfigurationError or AccessRefused."""
    try:
        return read_configuration(private_files.read_private(path, LINE_BYTES_MAX), str(path))
    except FileNotFoundError:
        raise ConfigurationError(f"there is no configuration file {path}") from None


def read_launch(descriptor: int) -> tuple[ConnectionFile, SlaveConfiguration] | None:
    """Read both lines; None if the other end was closed before they came. Raises as `connection_file.parse` does."""
    connection = read_line(descriptor)
    configuration = read_line(descriptor)
    if connection is None or configuration is None:
        return None
    info = connection_file.parse(connection, "the first line of standard input")
    return info, read_configuration(configuration, "the second line of standard input")


def read_line(descriptor: int) -> bytes | None:
    """Read one line, and nothing of what follows, without its end; None if the file ends before it does."""
    line = bytearray()
    while True:
        byte = os.read(descriptor, 1)
        if not byte:
            return None
        if byte == b"\n":
            return bytes(line)
        line += byte
        if len(line) > LINE_BYTES_MAX:
            raise ConfigurationError(f"a line on standard input has more than {LINE_BYTES_MAX >> 20} MiB")


def provide_initializer(initializer: bytes) -> None:
    """Have the workers of this process run an initializer: they inherit a file without a name that contains it."""
    if initializer:
        descriptor = make_anonymous_file("initializer")
        os.set_inheritable(descriptor, True)
        view = memoryview(initializer)
        while view:
            view = view[os.write(descriptor, view) :]
        os.environ[INITIALIZER_VARIABLE] = str(descriptor)
