"""Names of clusters that are taken: their connection file is here, and the master that wrote it is alive.

Called before a master is started. A file that a dead master has left is ignored.
"""

import fcntl
import os
import socket
import time
from pathlib import Path
from typing import Final

import psutil

from concurrent_nb.errors import ConcurrentError, ConfigurationError
from concurrent_nb.transport import connection_file
from concurrent_nb.transport.connection_file import ConnectionFile
from concurrent_nb.transport.control_client import ControlClient

#: seconds in which a stopping master, or one whose owner has ended, must release its name
STOPPING_S: Final = 1.0
#: seconds between two checks of a master that may be stopping
CHECK_S: Final = 0.05
#: a process that started this many seconds after its master is another one with the same process id
NUMBER_REUSED_S: Final = 5.0


def refuse_taken(name: str, stopping_s: float = STOPPING_S) -> None:
    """Raise ConfigurationError if a running cluster has this name, and keeps it for `stopping_s` seconds."""
    deadline = time.monotonic() + stopping_s
    while (info := _running(name)) is not None:
        if time.monotonic() >= deadline:
            raise ConfigurationError(
                f"a cluster named {name!r} is running: its master is process {info.pid} on {info.host or 'this host'}. "
                f"Connect to it (concurrent_nb.connect({name!r}), %concurrent connect {name}), choose another name, "
                f"or end it with `concurrent-nb stop {name}`"
            )
        time.sleep(CHECK_S)


def write_untaken(info: ConnectionFile) -> Path:
    """Write a connection file and return its path. Raises ConfigurationError if a running cluster has its name.

    Of several masters that start with the same name at the same time, one gets it.
    """
    folder = connection_file.folder_to_write()
    lock = os.open(folder, os.O_RDONLY)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not _is_succeeded_by(info):
            refuse_taken(info.name, stopping_s=0.0)
        return connection_file.write(info, folder / connection_file.file_name(info.name))
    finally:
        os.close(lock)


def _is_succeeded_by(info: ConnectionFile) -> bool:
    """Return whether the file of this name is of a master that has died and whose keys this one has been given."""
    try:
        former = connection_file.read(info.name)
    except ConcurrentError:
        return False
    return former.master_key == info.master_key and former.epoch < info.epoch and not _has_process(former)


def _running(name: str) -> ConnectionFile | None:
    """Return the content of the connection file of this name if it can be read and its master is alive."""
    path = connection_file.default_path(name)
    if not path.exists():
        return None
    try:
        info = connection_file.read(path)
    except ConcurrentError:
        return None
    return info if is_alive(info) else None


def is_alive(info: ConnectionFile, timeout_s: float = 5.0) -> bool:
    """Return whether the master that wrote a connection file exists: its process is here, or it answers in time."""
    return _has_process(info) or _answers(info, timeout_s)


def _has_process(info: ConnectionFile) -> bool:
    """Return whether the master's process exists; it may be suspended."""
    if info.pid < 1 or info.host != socket.gethostname():
        return False
    try:
        process = psutil.Process(info.pid)
        began_s = process.create_time()
        return process.status() != psutil.STATUS_ZOMBIE and began_s <= info.epoch / 1000 + NUMBER_REUSED_S
    except psutil.NoSuchProcess:
        return False


def _answers(info: ConnectionFile, timeout_s: float) -> bool:
    token = next(iter(info.tokens.values()), "")
    try:
        with ControlClient(info.endpoints, token, info.certificate_pem, timeout_s) as control:
            control.call("ping")
    except ConcurrentError:
        return False
    return True
