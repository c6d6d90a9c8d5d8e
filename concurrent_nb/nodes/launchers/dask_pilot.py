"""Slaves inside the workers of an existing Dask cluster: `on="dask://host:8786"`, `on="dask://tls://host:8786"`.

The connection file travels to the worker as an argument of a task, so the way to Dask's scheduler and workers is as
secret as Dask makes it: use tls:// where others can read the network.
"""

from typing import Final
from urllib.parse import urlsplit

from concurrent_nb.components.config import TextItem
from concurrent_nb.components.core import implements
from concurrent_nb.errors import ConfigurationError
from concurrent_nb.nodes.launchers.launcher import ILauncher
from concurrent_nb.nodes.launchers.own_address import address_towards
from concurrent_nb.nodes.launchers.pilot import Pilot

#: where a scheduler listens by default
DASK_PORT: Final = 8786


@implements(ILauncher)
class Dask(Pilot):
    """Starts slaves in the workers of a Dask cluster, one on each host."""

    short_name = "dask"
    engine = "Dask"
    engine_key = "dask"

    ca_file = TextItem("", help="File with the certificate of the authority, for tls://. Empty: Dask's configuration.")
    cert_file = TextItem("", help="File with the certificate of this client, for tls://.")
    key_file = TextItem("", help="File with the key of this client, for tls://.")

    def engine_address(self) -> str:
        """Return the scheduler's address as Dask writes it: tcp://host:8786."""
        return dask_address(self.place)

    def own_address(self) -> str:
        """Return the address from which this machine reaches the scheduler."""
        host = urlsplit(self.engine_address()).hostname
        assert host is not None
        return address_towards(host)

    def engine_options(self) -> dict[str, str | int]:
        """Return the files for tls://, if one was given."""
        files: dict[str, str | int] = {
            "ca_file": self.ca_file,
            "cert_file": self.cert_file,
            "key_file": self.key_file,
        }
        return files if any(files.values()) else {}


def dask_address(place: str) -> str:
    """Return the address of a scheduler as Dask writes it. Raises ConfigurationError.

    >>> dask_address("//host"), dask_address("//tls://host:8787")
    ('tcp://host:8786', 'tls://host:8787')
    """
    text = place.removeprefix("//")
    address = text if "://" in text else f"tcp://{text}"
    try:
        parts = urlsplit(address)
        host, port = parts.hostname, parts.port or DASK_PORT
    except ValueError:
        host, port = None, 0
    if not host or parts.scheme not in ("tcp", "tls", "ucx", "ws", "wss") or parts.path.strip("/"):
        raise ConfigurationError(
            f"on=dask:{place}: give the address of a Dask scheduler, dask://host:{DASK_PORT} or"
            f" dask://tls://host:{DASK_PORT}"
        )
    return f"{parts.scheme}://{f'[{host}]' if ':' in host else host}:{port}"


def tls_remedy(address: str, files: str) -> str:
    """Return what to do about TLS if no connection to a scheduler has come.

    Args:
        address: of the scheduler, as Dask writes it.
        files: where the files for tls:// are given.
    """
    if address.startswith("tls://"):
        return f"tls:// needs the certificates of the scheduler's authority and of a client: check {files}"
    return f"TLS needs dask://{address.replace('tcp://', 'tls://', 1)}"
