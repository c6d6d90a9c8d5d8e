"""Names of clusters that are taken: their connection file is here, and the master that wrote it is alive.

Asked by those who start a master. A file that a dead master has left behind is no obstacle.
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

#: a master that has been told to stop, or whose owner is gone, has so long to give its name free
GOING_S: Final = 1.0
#: time between two looks at a master that may be going
LOOK_S: Final = 0.05
#: a process that began so much later than its master's life is another one that has got its number
NUMBER_REUSED_S: Final = 5.0


def refuse_taken(name: str, going_s: float = GOING_S) -> None:
    """Raise ConfigurationError if a running cluster has this name, and goes on having it for `going_s` seconds."""
    deadline = time.monotonic() + going_s
    while (info := _running(name)) is not None:
        if time.monotonic() >= deadline:
            raise ConfigurationError(
                f"a cluster named {name!r} is running: its master is process {info.pid} on {info.host or 'this host'}. "
                f"Connect to it (concurrent_nb.connect({name!r}), %concurrent connect {name}), choose another name, "
                f"or end it with `concurrent-nb stop {name}`"
            )
        time.sleep(LOOK_S)


def write_untaken(info: ConnectionFile) -> Path:
    """Write a connection file for its name, and give its place; ConfigurationError if a running cluster has the name.

    Of several masters that come with the same name at the same time, one gets it.
    """
    folder = connection_file.folder_to_write()
    lock = os.open(folder, os.O_RDONLY)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX)
        refuse_taken(info.name, going_s=0.0)
        return connection_file.write(info, folder / connection_file.file_name(info.name))
    finally:
        os.close(lock)


def _running(name: str) -> ConnectionFile | None:
    """Give what the connection file of this name says, if there is one that can be read and its master is alive."""
    path = connection_file.default_path(name)
    if not path.exists():
        return None
    try:
        info = connection_file.read(path)
    except ConcurrentError:
        return None
    return info if _has_process(info) or _answers(info) else None


def _has_process(info: ConnectionFile) -> bool:
    """Say whether the master's process is there; it may be, and be frozen."""
    if info.pid < 1 or info.host != socket.gethostname():
        return False
    try:
        process = psutil.Process(info.pid)
        began_s = process.create_time()
        return process.status() != psutil.STATUS_ZOMBIE and began_s <= info.epoch / 1000 + NUMBER_REUSED_S
    except psutil.NoSuchProcess:
        return False


def _answers(info: ConnectionFile) -> bool:
    token = next(iter(info.tokens.values()), "")
    try:
        with ControlClient(info.endpoints, token, info.certificate_pem) as control:
            control.call("ping")
    except ConcurrentError:
        return False
    return True
