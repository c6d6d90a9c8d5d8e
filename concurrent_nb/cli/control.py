"""The connection of a command to the master of a cluster."""

from concurrent_nb.transport import connection_file
from concurrent_nb.transport.control_client import ControlClient


def control_of(name: str) -> ControlClient:
    """Return a client of a cluster's control channel, as an admin if the connection file allows that.

    Args:
        name: of the cluster, or a path of its connection file.

    Raises ClusterNotFound.
    """
    info = connection_file.read(name)
    token = info.tokens.get("admin") or next(iter(info.tokens.values()))
    return ControlClient(info.endpoints, token, info.certificate_pem)
