"""Whether something listens where an engine should."""

import socket
from urllib.parse import urlsplit

from concurrent_nb.errors import LaunchFailed


def check_listens(what: str, address: str, connect_s: float) -> None:
    """Raise LaunchFailed at once if nothing listens at an address; the engines' own clients would try for long.

    Args:
        what: for people, "Dask scheduler".
        address: SCHEME://HOST:PORT or HOST:PORT.
        connect_s: how long the host may take to answer.
    """
    parts = urlsplit(address if "://" in address else f"//{address}")
    try:
        socket.create_connection((parts.hostname or "", parts.port or 0), connect_s).close()
    except OSError as error:
        raise LaunchFailed(f"no {what} answers at {address}: {error.strerror or error}") from None
