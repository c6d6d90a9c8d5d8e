"""The cache of translated and compiled cells: files named by what they were made from, checked when they are read.

    NAME.generated        what Cython made of the cell: C, functions, perhaps the annotated page
    NAME-TAG.so, .sum     a binary, and its checksum
    NAME.lock             the process that holds the lock builds; others wait
    new-*                 files that are being built

The folder is CONCURRENT_NB_CYTHON_CACHE, or else concurrent_nb/cython in XDG_CACHE_HOME or ~/.cache; where that cannot
be written, a folder of temporary files. Only its owner may read it. When it exceeds 256 MiB, the
files that were not used for longest are deleted. Files are written atomically, and a damaged one counts as missing.
"""

import contextlib
import fcntl
import hashlib
import logging
import os
import shutil
import stat
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from concurrent_nb.errors import AccessRefused, BuildFailed

log = logging.getLogger(__name__)

VARIABLE: Final = "CONCURRENT_NB_CYTHON_CACHE"
LIMIT_BYTES: Final = 256 << 20
#: files of an unfinished build are deleted after this time
STALE_S: Final = 3600.0
POLL_S: Final = 0.05

#: called repeatedly during long operations; an exception that it raises ends them
Tick = Callable[[], None]


def default_folder() -> Path:
    """Return the folder that the environment of this user sets."""
    if named := os.environ.get(VARIABLE):
        return Path(named)
    caches = os.environ.get("XDG_CACHE_HOME", "")
    base = Path(caches if os.path.isabs(caches) else os.path.expanduser("~/.cache"))
    return base / "concurrent_nb" / "cython"


def fallback_folder() -> Path:
    """Return the folder that is used where the home folder cannot be written."""
    user = os.geteuid() if hasattr(os, "geteuid") else "user"
    return Path(tempfile.gettempdir(), f"concurrent_nb-{user}", "cython")


class Cache:
    """Keeps what was built. Safe for any number of processes and threads.

    Args:
        folder: created when it is first needed.
        limit_bytes: limit of all its files.

    Every method raises AccessRefused if the folder belongs to another user or is accessible to others, and BuildFailed
    if it cannot be used.
    """

    def __init__(self, folder: Path | None = None, limit_bytes: int = LIMIT_BYTES) -> None:
        self._folder = folder or default_folder()
        self._may_move = folder is None and not os.environ.get(VARIABLE)  # the user has not set the folder
        self._limit_bytes = limit_bytes

    def read(self, name: str) -> bytes | None:
        """Return the content of a file; None if it is missing or damaged."""
        try:
            data = self._path(name).read_bytes()
        except FileNotFoundError:
            return None
        digest, _, content = data.partition(b"\n")
        if digest != _checksum(content):
            return None
        self._touch(name)
        return content

    def write(self, name: str, content: bytes) -> None:
        """Write a file."""
        self._replace(name, _checksum(content) + b"\n" + content)

    def binary(self, name: str) -> Path | None:
        """Return the path of a binary; None if it is missing or damaged."""
        path = self._path(name)
        try:
            data, digest = path.read_bytes(), path.with_suffix(".sum").read_bytes()
        except FileNotFoundError:
            return None
        if digest != _checksum(data):
            return None
        self._touch(name)
        self._touch(path.with_suffix(".sum").name)
        return path

    def write_binary(self, name: str, data: bytes) -> Path:
        """Write a binary; return its path."""
        path = self._path(name)
        self._replace(name, data)
        self._replace(path.with_suffix(".sum").name, _checksum(data))
        self._evict()
        return path

    def discard(self, name: str) -> None:
        """Delete a binary that cannot be loaded."""
        path = self._path(name)
        path.with_suffix(".sum").unlink(missing_ok=True)
        path.unlink(missing_ok=True)

    @contextmanager
    def building(self, name: str, tick: Tick) -> Iterator[Path]:
        """Hold the lock for building `name`; yield an empty folder to build in, which is deleted afterwards."""
        lock = self._path(f"{name}.lock")
        with self._as_build_failed():
            fd = os.open(lock, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            while not _try_lock(fd):
                tick()
                time.sleep(POLL_S)
            with tempfile.TemporaryDirectory(prefix="new-", dir=self._folder) as folder:
                yield Path(folder)
        finally:
            os.close(fd)

    def _path(self, name: str) -> Path:
        if self._may_move:
            self._may_move = False
            if not _is_writable(self._folder):
                fallback = fallback_folder()
                log.warning("%s cannot be written: compiled cells are kept in %s", self._folder, fallback)
                self._folder = fallback
        with self._as_build_failed():
            if not self._folder.is_dir():
                self._folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            status = self._folder.stat()
        if status.st_uid != os.geteuid() or stat.S_IMODE(status.st_mode) & 0o077:
            raise AccessRefused(
                f"compiled cells are run from {self._folder}, and others can write there: chmod 700 '{self._folder}',"
                f" or name another folder in {VARIABLE}"
            )
        return self._folder / name

    @contextmanager
    def _as_build_failed(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            raise BuildFailed(
                f"compiled cells cannot be kept in {self._folder} ({error.strerror or error}): name another folder in"
                f" {VARIABLE}"
            ) from error

    def _replace(self, name: str, data: bytes) -> None:
        path = self._path(name)
        with self._as_build_failed():
            fd, new = tempfile.mkstemp(prefix="new-", dir=self._folder)
            try:
                with open(fd, "wb") as file:
                    file.write(data)
                os.replace(new, path)
            except BaseException:
                with contextlib.suppress(FileNotFoundError):
                    os.unlink(new)
                raise

    def _touch(self, name: str) -> None:
        with contextlib.suppress(OSError):
            os.utime(self._path(name))

    def _evict(self) -> None:
        """Delete the files that were not used for longest, and those of abandoned builds."""
        kept: list[tuple[float, int, Path]] = []
        now = time.time()
        for path in self._folder.iterdir():
            with contextlib.suppress(FileNotFoundError):
                status = path.stat()
                if not path.name.startswith("new-"):
                    kept.append((status.st_mtime, status.st_size, path))
                elif now - status.st_mtime > STALE_S:
                    shutil.rmtree(path) if path.is_dir() else path.unlink()
        total = sum(size for _, size, _ in kept)
        for _, size, path in sorted(kept):
            if total <= self._limit_bytes:
                break
            path.unlink(missing_ok=True)
            total -= size


def _is_writable(folder: Path) -> bool:
    """Return whether this process can write into a folder, which is created if it is missing."""
    if not folder.is_absolute():  # there is no home folder
        return False
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    except OSError:
        return False
    return os.access(folder, os.W_OK | os.X_OK)


def _checksum(data: bytes) -> bytes:
    return hashlib.sha256(data).hexdigest().encode()


def _try_lock(fd: int) -> bool:
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True
