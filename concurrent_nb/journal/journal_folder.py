"""What the folder of a journal can: whether SQLite's write-ahead log works there, and who has it.

A write-ahead log needs memory that processes of one host share through a file, which network file systems do not offer:
some refuse it, some only seem to have it. So their names are known, and a scratch database is tried on others.
"""

import contextlib
import fcntl
import os
import sqlite3
from pathlib import Path
from typing import Final

from concurrent_nb.errors import JournalError, JournalInUse

#: file systems on which the log does not work, or is not safe, by their names in mountinfo
_REMOTE: Final = frozenset(
    {"nfs", "nfs3", "nfs4", "cifs", "smb", "smb2", "smb3", "smbfs", "lustre", "gpfs", "beegfs", "ceph", "9p", "afs"}
)
_MOUNTS: Final = Path("/proc/self/mountinfo")
_SCRATCH: Final = "scratch.sqlite"


def make_private_folder(folder: Path) -> None:
    """Create a folder that only we may enter. Raises JournalError."""
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        folder.chmod(0o700)
    except OSError as error:
        raise JournalError(f"the folder {folder} for the journal cannot be made: {error}") from None


def lock(folder: Path) -> int:
    """Take the journal in a folder for this process; return the descriptor of the lock, which ends with the process.

    Raises JournalInUse if another master has it.
    """
    descriptor = os.open(folder / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        owner = os.pread(descriptor, 100, 0).decode(errors="replace")
        os.close(descriptor)
        raise JournalInUse(
            f"the journal in {folder} is in use by process {owner or '(unknown)'}: a journal belongs to one master. End"
            " that one, or name another folder in SqliteJournal.folder"
        ) from None
    os.ftruncate(descriptor, 0)
    os.pwrite(descriptor, str(os.getpid()).encode(), 0)
    return descriptor


def why_no_log(folder: Path, mounts: Path = _MOUNTS) -> str:
    """Return why a write-ahead log does not work in a folder; "" if it does."""
    kind = file_system_of(folder, mounts)
    if kind in _REMOTE or kind.startswith("fuse."):
        return f"{folder} is on {kind}"
    path = folder / _SCRATCH
    try:
        for _ in range(2):  # some file systems fail only when the database is opened again
            with contextlib.closing(sqlite3.connect(path, isolation_level=None, timeout=1.0)) as scratch:
                mode = scratch.execute("PRAGMA journal_mode=WAL").fetchone()[0]
                if mode != "wal":
                    return f"a database in {folder} cannot have a write-ahead log, but {mode}"
                scratch.execute("CREATE TABLE IF NOT EXISTS tried (number INTEGER)")
                scratch.execute("INSERT INTO tried VALUES (1)")
    except sqlite3.Error as error:
        return f"a database with a write-ahead log in {folder} fails: {error}"
    finally:
        for end in ("", "-wal", "-shm", "-journal"):
            path.with_name(_SCRATCH + end).unlink(missing_ok=True)
    return ""


def file_system_of(folder: Path, mounts: Path = _MOUNTS) -> str:
    """Return the name of the file system of a folder; "" if it is not known."""
    try:
        lines = mounts.read_text(errors="replace").splitlines()
    except OSError:
        return ""
    best, found = -1, ""
    place = folder.resolve()
    for line in lines:
        before, _, after = line.partition(" - ")
        words = before.split(" ")
        if len(words) < 5 or not after:
            continue
        point = Path(words[4].encode().decode("unicode_escape"))
        if place.is_relative_to(point) and len(point.parts) >= best:
            best, found = len(point.parts), after.split(" ")[0]
    return found
