"""The connection file locates a cluster. The master writes it, all other nodes read it or a copy of it.

It is `concurrent_nb-NAME.json` in Jupyter's runtime folder (or see `folder_to_write`), readable by its owner only,
because its content is enough to use the cluster. A slave on another machine needs only a copy. This module does not
check whether the master is alive; connecting does.
"""

import logging
import re
from pathlib import Path
from typing import Final

import msgspec

from concurrent_nb.errors import ClusterNotFound, ConfigurationError, VersionMismatch
from concurrent_nb.transport import private_files
from concurrent_nb.transport.keys import TOKEN, Z85_KEY

log = logging.getLogger(__name__)

#: version of the layout; a reader refuses other versions with VersionMismatch
FILE_VERSION: Final = 1

_NAME: Final = re.compile(r"(?!\.)[A-Za-z0-9_.-]{1,64}")
_PLACE: Final = r"(\[[0-9a-fA-F:.]+\]|[A-Za-z0-9_.-]+):\d{1,5}"
_ENDPOINT: Final = re.compile("https?://" + _PLACE)


class ConnectionFile(msgspec.Struct, frozen=True, kw_only=True):
    """The content of a connection file."""

    version: int = FILE_VERSION
    name: str  #: of the cluster
    endpoints: list[str]  #: URLs of the control channel, the best first
    master_key: str  #: the master's public CURVE key, Z85
    tokens: dict[str, str]  #: role (admin, client, slave) to its token
    certificate_pem: str | None = None  #: the master's TLS certificate, None without TLS
    compute_proxy: str | None = None  #: HOST:PORT of a SOCKS5 proxy (`ssh -D`) for the compute channel
    compute_endpoint: str | None = None  #: HOST:PORT of the compute channel for its reader (`ssh -R`), not as announced
    pid: int = 0  #: the master's process
    host: str = ""  #: the machine of that process
    epoch: int = 0  #: grows with each start of the master

    def __repr__(self) -> str:
        return f"ConnectionFile(name={self.name!r}, endpoints={self.endpoints!r}, pid={self.pid}, host={self.host!r})"


class _Version(msgspec.Struct):
    version: int


def check_name(name: str) -> str:
    """Return the name of a cluster. Raises ConfigurationError if it is not valid."""
    if _NAME.fullmatch(name) is None or name.endswith(".json"):
        text = (
            f"{name[:80]!r} cannot name a cluster: a name has 1 to 64 letters, digits, '-', '_' and '.', does not "
            "start with '.' and does not end with '.json'"
        )
        raise ConfigurationError(text)
    return name


def default_path(name: str) -> Path:
    """Return the path of the connection file of the cluster `name`, or where it would be if there is none."""
    file = file_name(name)
    return next((folder / file for folder in _folders() if (folder / file).exists()), _folders()[0] / file)


def file_name(name: str) -> str:
    """Return the file name of the connection file of the cluster `name`."""
    return f"concurrent_nb-{check_name(name)}.json"


def folder_to_write() -> Path:
    """Return the folder for connection files, created if needed: Jupyter's runtime folder.

    If that cannot be written, as in a container whose home is read-only, it is a private folder among the temporary
    files, where `read` and `names` search too. Raises ConfigurationError or AccessRefused if that fails too.
    """
    folder = _folders()[0]
    if private_files.is_writable(folder):
        return folder
    instead = private_files.make_temporary_folder()
    if folder != instead:
        log.warning(
            "%s cannot be written, so connection files are in %s; JUPYTER_RUNTIME_DIR names another", folder, instead
        )
    return instead


def write(info: ConnectionFile, path: Path | str | None = None) -> Path:
    """Write a connection file, readable by its owner only, atomically, and return its path."""
    _check(info, "a connection file")
    path = folder_to_write() / file_name(info.name) if path is None else Path(path)
    private_files.make_folder(path.parent)
    private_files.replace_private(path, msgspec.json.format(msgspec.json.encode(info), indent=2) + b"\n")
    return path


def read(name_or_path: Path | str | ConnectionFile) -> ConnectionFile:
    """Read the connection file of a cluster's name, or at a path: a text with a slash or the ending `.json`.

    The content of one, which a slave elsewhere has instead of a file, is returned as it is.

    Raises ClusterNotFound if there is none, AccessRefused if others can read it, ConfigurationError if it is not a
    connection file, VersionMismatch if another version of concurrent_nb wrote it.
    """
    if isinstance(name_or_path, ConnectionFile):
        return name_or_path
    path = path_of(name_or_path)
    try:
        data = private_files.read_private(path)
    except FileNotFoundError:
        raise _not_found(name_or_path, path) from None
    return parse(data, str(path))


def parse(data: bytes, where: str) -> ConnectionFile:
    """Read the content of a connection file; `where` names it in errors. Raises as `read` does."""
    try:
        version = msgspec.json.decode(data, type=_Version).version
        if version != FILE_VERSION:
            text = f"{where} has version {version}, this concurrent_nb reads {FILE_VERSION}: install the same on both"
            raise VersionMismatch(text)
        info = msgspec.json.decode(data, type=ConnectionFile)
    except (ValueError, RecursionError) as error:
        raise ConfigurationError(f"{where} is no connection file: {error}") from None
    _check(info, where)
    return info


def in_one_line(info: ConnectionFile) -> str:
    """Return the content of a connection file as one line, for `parse`."""
    return msgspec.json.encode(info).decode()


def names() -> list[str]:
    """Return the names of the clusters with a connection file here, sorted. Their masters may have ended."""
    paths = (path for folder in _folders() for path in folder.glob("concurrent_nb-*.json"))
    found = {path.name.removeprefix("concurrent_nb-").removesuffix(".json") for path in paths}
    return sorted(name for name in found if _NAME.fullmatch(name))


def remove(name_or_path: Path | str, epoch: int | None = None) -> bool:
    """Delete a connection file; return False if there is none. With `epoch`, only that start's of the master."""
    path = path_of(name_or_path)
    if epoch is not None:
        try:
            if read(path).epoch != epoch:
                return False
        except ClusterNotFound:
            return False
    try:
        path.unlink()
    except FileNotFoundError:
        return False
    return True


def _folders() -> list[Path]:
    """Return the folders for connection files: Jupyter's runtime folder, if there is a home, and its replacement."""
    from jupyter_core.paths import jupyter_runtime_dir

    instead = private_files.temporary_folder()
    try:
        return [Path(jupyter_runtime_dir()), instead]
    except RuntimeError:  # a user unknown to the system, and no HOME
        return [instead]


def path_of(name_or_path: Path | str) -> Path:
    """Return the path of a cluster's connection file; the argument is its name or already a path."""
    if isinstance(name_or_path, Path):
        return name_or_path
    if "/" in name_or_path or "\\" in name_or_path or name_or_path.endswith(".json"):
        return Path(name_or_path).expanduser()
    return default_path(name_or_path)


def _not_found(name_or_path: Path | str, path: Path) -> ClusterNotFound:
    there = f"Clusters in {_folders()[0]}: {', '.join(names()) or 'none'}"
    return ClusterNotFound(f"no cluster {str(name_or_path)!r}: there is no file {path}. {there}")


def _check(info: ConnectionFile, where: str) -> None:
    """Raise ConfigurationError unless the fields have the form on which their users rely."""
    check_name(info.name)
    wrong = None
    if not info.endpoints or not all(map(_ENDPOINT.fullmatch, info.endpoints)):
        wrong = f"endpoints {info.endpoints!r} are not a list of URLs like http://127.0.0.1:8000"
    elif Z85_KEY.fullmatch(info.master_key.encode()) is None:
        wrong = "master_key is not a CURVE key in Z85"
    elif not all(map(TOKEN.fullmatch, info.tokens.values())):
        wrong = "a token is not 16 to 256 printable characters"
    elif info.compute_proxy is not None and re.fullmatch(_PLACE, info.compute_proxy) is None:
        wrong = f"compute_proxy {info.compute_proxy!r} is no HOST:PORT"
    elif info.compute_endpoint is not None and re.fullmatch(_PLACE, info.compute_endpoint) is None:
        wrong = f"compute_endpoint {info.compute_endpoint!r} is no HOST:PORT"
    if wrong is not None:
        raise ConfigurationError(f"{where} is not right: {wrong}")
