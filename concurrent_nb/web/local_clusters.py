"""The clusters that a Jupyter server can reach: those whose connection files its user can read, embedded ones too.

A cluster is chosen by its name, never by a path or URL, so users of the server reach no other host or file. Work
that blocks runs in a few threads of its own, so that neither a slow master nor a disk holds up the server.
"""

import asyncio
import re
import subprocess
import sys
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Final, NamedTuple, TypeVar

from concurrent_nb.errors import (
    AccessRefused,
    ClusterNotFound,
    ClusterStartFailed,
    ConcurrentError,
    ConfigurationError,
    MasterUnreachable,
)
from concurrent_nb.transport import connection_file
from concurrent_nb.transport.connection_file import ConnectionFile
from concurrent_nb.transport.control_client import ControlClient
from concurrent_nb.transport.taken_names import is_alive, refuse_taken

T = TypeVar("T")

#: calls to masters that run at the same time; others wait
THREADS: Final = 8
#: seconds for a call to a master
CALL_S: Final = 10.0
#: seconds in which a master must show that it is alive
ALIVE_S: Final = 2.0
#: seconds in which a cluster must have started, or ended
START_S: Final = 60.0
STOP_S: Final = 5.0
#: seconds between two looks whether it has ended
STOP_CHECK_S: Final = 0.05

#: the beginning of the name of a cluster that a kernel or a program has started for itself
_EMBEDDED: Final = re.compile(r"embedded-\d+-[0-9a-f]+")


class Access(NamedTuple):
    """How to reach a master that answers."""

    endpoint: str  #: URL of its control channel
    token: str
    certificate_pem: str | None  #: the only certificate to accept


class LocalClusters:
    """Lists, starts, stops and calls clusters; the methods run on an asyncio loop and do not block it."""

    def __init__(self) -> None:
        self._threads = ThreadPoolExecutor(THREADS, thread_name_prefix="concurrent_nb clusters")

    def close(self) -> None:
        """Start no more calls."""
        self._threads.shutdown(wait=False, cancel_futures=True)

    async def all(self) -> list[dict[str, Any]]:
        """Return name, host, pid, is_alive and is_embedded of each cluster, sorted by name. No tokens."""
        names = await self._run(connection_file.names)
        found = await asyncio.gather(*(self._run(_describe, name) for name in names))
        return [each for each in found if each is not None]

    async def start(self, name: str, workers: int | None = None) -> dict[str, Any]:
        """Start a cluster on this machine, as `concurrent-nb start --daemon` does; return what `all` has of it.

        Raises ConfigurationError for a name that is invalid or taken, ClusterStartFailed with the end of the log.
        """
        return await self._run(_start, name, workers)

    async def stop(self, name: str) -> None:
        """Stop a cluster; if its master is dead, remove the connection file that it has left.

        Raises what `call` raises.
        """
        await self._run(_stop, name)

    async def call(self, name: str, method: str, params: dict[str, Any]) -> Any:
        """Call a method of a cluster's master and return its result; its errors are raised with their classes.

        Raises ConfigurationError for an invalid name, ClusterNotFound, MasterUnreachable, AccessRefused.
        """
        return await self._run(_call, name, method, params)

    async def access(self, name: str) -> Access:
        """Return how to reach a master, after it has answered. Raises what `call` raises."""
        return await self._run(_access, name)

    async def _run(self, function: Callable[..., T], *arguments: Any) -> T:
        return await asyncio.get_running_loop().run_in_executor(self._threads, function, *arguments)


def _read(name: str) -> ConnectionFile:
    """Read the connection file of a name. Raises ConfigurationError for what is no name, for example a path."""
    return connection_file.read(connection_file.check_name(name))


def _token(info: ConnectionFile) -> str:
    """Return the most powerful token of a connection file; a copy for others may lack some."""
    for role in ("admin", "client"):
        if role in info.tokens:
            return info.tokens[role]
    raise AccessRefused(f"the connection file of cluster {info.name!r} has no token of role admin or client")


def _control(info: ConnectionFile) -> ControlClient:
    return ControlClient(info.endpoints, _token(info), info.certificate_pem, CALL_S)


def _describe(name: str) -> dict[str, Any] | None:
    """Describe a cluster; None if its file cannot be read."""
    try:
        info = _read(name)
    except ConcurrentError:
        return None
    return {
        "name": name,
        "host": info.host,
        "pid": info.pid,
        "is_alive": is_alive(info, ALIVE_S),
        "is_embedded": _EMBEDDED.fullmatch(name) is not None,
    }


def _call(name: str, method: str, params: dict[str, Any]) -> Any:
    with _control(_read(name)) as control:
        return control.call(method, **params)


def _access(name: str) -> Access:
    info = _read(name)
    with _control(info) as control:
        control.call("ping")
        return Access(control.endpoint, _token(info), info.certificate_pem)


def _start(name: str, workers: int | None) -> dict[str, Any]:
    refuse_taken(connection_file.check_name(name))
    options = [f"--name={name}", *([] if workers is None else [f"--workers={workers}"])]
    try:
        done = subprocess.run(
            [sys.executable, "-P", "-m", "concurrent_nb", "start", "--daemon", *options],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            timeout=START_S,
        )
    except subprocess.TimeoutExpired:
        raise ClusterStartFailed(f"cluster {name!r} did not start within {START_S:g} s") from None
    if done.returncode != 0:
        text = done.stderr.decode("utf-8", "replace").strip()
        raise ClusterStartFailed(text or f"cluster {name!r} did not start (exit code {done.returncode})")
    described = _describe(name)
    if described is None:
        raise ClusterNotFound(f"cluster {name!r} has started, and has ended already")
    return described


def _stop(name: str) -> None:
    info = _read(name)
    path = connection_file.default_path(name)
    try:
        with _control(info) as control:
            control.call("stop_cluster")
    except MasterUnreachable:
        if is_alive(info, ALIVE_S):
            raise
        connection_file.remove(path, info.epoch)
        return
    deadline = time.monotonic() + STOP_S
    while path.exists() and time.monotonic() < deadline:
        time.sleep(STOP_CHECK_S)


def status_code(error: ConcurrentError) -> int:
    """Return the HTTP status for an error: 4xx for what the caller can change, 502 for the rest."""
    statuses: list[tuple[type[Exception], int]] = [
        (ClusterNotFound, 404),
        (AccessRefused, 403),
        (MasterUnreachable, 502),
        (ConfigurationError, 400),
        (ClusterStartFailed, 500),
        (ValueError, 400),
    ]
    return next((status for kind, status in statuses if isinstance(error, kind)), 502)
