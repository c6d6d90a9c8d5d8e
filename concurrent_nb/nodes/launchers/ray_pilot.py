"""Slaves on the nodes of an existing Ray cluster: `on="ray"` (the one that runs here), `on="ray://host:10001"`.

The connection file travels to the node as an argument of an actor, through Ray's own network, which is encrypted only
if that cluster uses TLS.
"""

import os
import sys
import tempfile
from pathlib import Path
from typing import Final
from urllib.parse import urlsplit

from concurrent_nb.components.config import IntItem
from concurrent_nb.components.core import implements
from concurrent_nb.errors import ConfigurationError
from concurrent_nb.nodes.launchers.launcher import EVERY_ADDRESS, ILauncher
from concurrent_nb.nodes.launchers.own_address import address_towards
from concurrent_nb.nodes.launchers.pilot import Pilot

#: where Ray listens for clients on other machines by default
RAY_PORT: Final = 10001
#: the variable with the address of the Ray cluster of this machine
RAY_ADDRESS_VARIABLE: Final = "RAY_ADDRESS"
#: in which Ray has its files, if it is not the folder for temporary files
RAY_FOLDER_VARIABLE: Final = "RAY_TMPDIR"


@implements(ILauncher)
class Ray(Pilot):
    """Starts slaves on the nodes of a Ray cluster, one on each."""

    short_name = "ray"
    engine = "Ray"
    engine_key = "ray"

    cores = IntItem(0, min=0, help="Cores of each slave; 0: all of the node, so the slave waits until all are free.")

    def engine_address(self) -> str:
        """Return the address of Ray: ray://host:10001, host:6379, or auto."""
        return ray_address(self.place) or running_ray()

    def own_address(self) -> str:
        """Return the address from which this machine reaches Ray."""
        host = urlsplit(
            self.engine_address() if "://" in self.engine_address() else f"x://{self.engine_address()}"
        ).hostname
        assert host is not None
        return EVERY_ADDRESS[0] if host == "auto" else address_towards(host)

    def engine_options(self) -> dict[str, str | int]:
        """Return how many cores a slave has."""
        return {"cores": self.cores}


def ray_address(place: str) -> str:
    """Return an address as Ray writes it; "" for the Ray that runs here. Raises ConfigurationError.

    >>> ray_address(""), ray_address("//host"), ray_address("host:6379")
    ('', 'ray://host:10001', 'host:6379')
    """
    if place in ("", "auto", "//auto"):
        return ""
    try:
        parts = urlsplit(f"ray:{place}" if place.startswith("//") else f"x://{place}")
        host, port = parts.hostname, parts.port
    except ValueError:
        host, port = None, None
    if not host or parts.path.strip("/") or (parts.scheme == "x" and port is None):
        raise ConfigurationError(
            f"on=ray:{place}: give the address of a Ray cluster, ray://host:{RAY_PORT}, or write on=ray for the Ray"
            " that runs here"
        )
    shown = f"[{host}]" if ":" in host else host
    return f"ray://{shown}:{port or RAY_PORT}" if parts.scheme == "ray" else f"{shown}:{port}"


def running_ray() -> str:
    """Return the address of the Ray that this process uses, or that runs on this machine; "auto" if it is unknown."""
    ray = sys.modules.get("ray")
    if ray is not None and ray.is_initialized():
        return str(ray.get_runtime_context().gcs_address)
    if address := os.environ.get(RAY_ADDRESS_VARIABLE):
        return address
    folder = os.environ.get(RAY_FOLDER_VARIABLE) or tempfile.gettempdir()
    try:
        return Path(folder, "ray", "ray_current_cluster").read_text().strip() or "auto"
    except OSError:
        return "auto"
