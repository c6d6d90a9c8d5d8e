"""Reads and writes files that only their owner may read: keys and connection files.

A written file has mode 0600 and is complete from its first moment; a read file must be a regular file of ours that no
other user can read, or AccessRefused names the command that repairs it. On Windows, where modes do not control reading,
owner and mode are not checked: the folders of the user profile protect these files there.
"""

import contextlib
import os
import secrets
import stat
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from concurrent_nb.errors import AccessRefused, ConfigurationError

#: usual limit of a key or connection file; a larger file is not one
MAX_FILE_BYTES: Final = 64 * 1024

# Each is missing on some platform. Without O_NONBLOCK, opening a named pipe would wait for its writer.
_BINARY: Final = getattr(os, "O_BINARY", 0)
_READ_FLAGS: Final = os.O_RDONLY | getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_NONBLOCK", 0) | _BINARY
_CREATE_FLAGS: Final = os.O_WRONLY | os.O_CREAT | os.O_EXCL | _BINARY


def read_private(path: Path, bytes_max: int = MAX_FILE_BYTES) -> bytes:
    """Read a file that only we can read, of at most `bytes_max` bytes.

    Raises FileNotFoundError if there is none, AccessRefused if others can read it, it belongs to another user, or it is
    a link, ConfigurationError if it cannot be read, or is too large.
    """
    try:
        descriptor = os.open(path, _READ_FLAGS)
    except FileNotFoundError:
        raise
    except OSError as error:
        if path.is_symlink():
            raise AccessRefused(f"{path} is a symbolic link: put the file itself there") from None
        raise ConfigurationError(f"{path} cannot be read: {error.strerror}") from None
    try:
        status = os.fstat(descriptor)
        if not stat.S_ISREG(status.st_mode):
            raise ConfigurationError(f"{path} is not a file")
        _check_ours(path, status)
        with open(descriptor, "rb", closefd=False) as file:
            data = file.read(bytes_max + 1)
    finally:
        os.close(descriptor)
    if len(data) > bytes_max:
        raise ConfigurationError(f"{path} is larger than {bytes_max} bytes, so it is not a file of concurrent_nb")
    return data


def create_private(path: Path, data: bytes) -> bool:
    """Write a new file. Return False, and write nothing, if it exists: another process was first."""
    with _complete_copy(path, data) as copy:
        try:
            os.link(copy, path)
        except FileExistsError:
            return False
        except OSError:  # a file system without hard links
            return _create_in_place(path, data)
    return True


def replace_private(path: Path, data: bytes) -> None:
    """Write a file, or replace it atomically: a reader gets the old or the new content, never a part."""
    with _complete_copy(path, data) as copy:
        os.replace(copy, path)


def make_folder(folder: Path) -> None:
    """Create a folder and missing parents, accessible only to us. Raises ConfigurationError."""
    with _as_refusal(folder):
        for missing in reversed([folder, *folder.parents]):
            if not missing.is_dir():
                missing.mkdir(mode=0o700, exist_ok=True)


def check_folder(folder: Path) -> None:
    """Raise AccessRefused for a folder of another user, or that others may enter."""
    _check_ours(folder, folder.stat())


def is_writable(folder: Path) -> bool:
    """Return whether we can write files into a folder, which is created for us only if it does not exist."""
    try:
        make_folder(folder)
        descriptor, name = tempfile.mkstemp(prefix=".writable-", dir=folder)
    except (ConfigurationError, OSError):
        return False
    os.close(descriptor)
    os.unlink(name)
    return True


def temporary_folder() -> Path:
    """Return the folder that replaces folders of a home that cannot be written; it need not exist.

    It is the same for all processes of a user. Raises ConfigurationError if there is no folder for temporary files.
    """
    who = os.geteuid() if hasattr(os, "geteuid") else "user"
    try:
        return Path(tempfile.gettempdir(), f"concurrent_nb-{who}")
    except OSError as error:
        raise ConfigurationError(f"there is no folder for temporary files ({error}): name one in TMPDIR") from None


def make_temporary_folder() -> Path:
    """Create `temporary_folder()` for us only. Raises AccessRefused if another user owns it or can access it."""
    folder = temporary_folder()
    make_folder(folder)
    _check_ours(folder, folder.lstat())
    if folder.is_symlink():
        raise AccessRefused(f"{folder} is a symbolic link: remove it, or name another temporary folder in TMPDIR")
    return folder


@contextlib.contextmanager
def _complete_copy(path: Path, data: bytes) -> Iterator[Path]:
    """Write the data beside `path`, and delete the copy at the end if it still exists."""
    copy = path.with_name(f".{path.name}.{secrets.token_hex(8)}")
    with _as_refusal(path):
        try:
            _write_new(copy, data)
            yield copy
        finally:
            copy.unlink(missing_ok=True)


def _create_in_place(path: Path, data: bytes) -> bool:
    try:
        _write_new(path, data)
    except FileExistsError:
        return False
    return True


def _write_new(path: Path, data: bytes) -> None:
    with open(os.open(path, _CREATE_FLAGS, 0o600), "wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())


@contextlib.contextmanager
def _as_refusal(path: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise ConfigurationError(f"{path} cannot be written: {error.strerror}") from None


def _check_ours(path: Path, status: os.stat_result) -> None:
    """Raise AccessRefused for a file of another user or open to others. Only this function differs by platform."""
    if sys.platform == "win32":
        return
    if status.st_uid != os.geteuid():
        text = f"{path} belongs to user {status.st_uid}, and we are user {os.geteuid()}: make a copy of your own"
        raise AccessRefused(text)
    mode = stat.S_IMODE(status.st_mode)
    if mode & 0o077:
        private = "700" if stat.S_ISDIR(status.st_mode) else "600"
        raise AccessRefused(f"{path} has mode {mode:04o}, so others can access it: chmod {private} '{path}'")
