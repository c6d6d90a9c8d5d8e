"""Where translated and compiled cells are kept: files named by what they were made from, checked when they are read.

    NAME.generated        what Cython made of the cell: C, functions, perhaps the annotated page
    NAME-TAG.so, .sum     a binary, and the digest that it must have
    NAME.lock             whoever holds it builds; others wait
    new-*                 being built

The folder is CONCURRENT_NB_CYTHON_CACHE, or else concurrent_nb/cython in XDG_CACHE_HOME or ~/.cache; where that cannot
be written, one among the temporary files. Only its owner may read it. What was not used for longest goes when all of it
takes more than 256 MiB. Files appear whole or not at all, and a damaged one counts as missing.
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
#: what is being built is forgotten by its builder after this long
STALE_S: Final = 3600.0
POLL_S: Final = 0.05

#: called again and again while something takes time; what it raises ends that
Tick = Callable[[], None]


def default_folder() -> Path:
    """Give the folder that this user's environment says."""
    if named := os.environ.get(VARIABLE):
        return Path(named)
    caches = os.environ.get("XDG_CACHE_HOME", "")
    base = Path(caches if os.path.isabs(caches) else os.path.expanduser("~/.cache"))
    return base / "concurrent_nb" / "cython"


def temporary_folder() -> Path:
    """Give the folder that takes its place where there is no home that can be written."""
    user = os.geteuid() if hasattr(os, "geteuid") else "user"
    return Path(tempfile.gettempdir(), f"concurrent_nb-{user}", "cython")


class Cache:
    """Keep what was built. Safe for any number of processes and threads.

    Args:
        folder: made when it is first needed.
        limit_bytes: what its files may take together.

    Every method raises AccessRefused if the folder is somebody else's or open to others, and BuildFailed if it cannot
    be used.
    """

    def __init__(self, folder: Path | None = None, limit_bytes: int = LIMIT_BYTES) -> None:
        self._folder = folder or default_folder()
        self._may_move = folder is None and not os.environ.get(VARIABLE)  # nobody has asked for this very folder
        self._limit_bytes = limit_bytes

    def read(self, name: str) -> bytes | None:
        """Give what was kept, or None if there is nothing or it is damaged."""
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
        """Keep something."""
        self._replace(name, _checksum(content) + b"\n" + content)

    def binary(self, name: str) -> Path | None:
        """Give the file of a binary, or None if there is none or it is damaged."""
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
        """Keep a binary; give its file."""
        path = self._path(name)
        self._replace(name, data)
        self._replace(path.with_suffix(".sum").name, _checksum(data))
        self._evict()
        return path

    def discard(self, name: str) -> None:
        """Forget a binary that turned out to be none."""
        path = self._path(name)
        path.with_suffix(".sum").unlink(missing_ok=True)
        path.unlink(missing_ok=True)

    @contextmanager
    def building(self, name: str, tick: Tick) -> Iterator[Path]:
        """Be the only one who builds `name`; give an empty folder to build in, which goes afterwards."""
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
                fallback = temporary_folder()
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
        """Delete what was not used for longest, and what somebody began to build and left."""
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
    """Say whether we can write into a folder; it is made if it is not there."""
    if not folder.is_absolute():  # there is no home
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
