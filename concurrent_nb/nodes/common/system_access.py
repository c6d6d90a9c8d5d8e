"""What an application passes to a task system, which is a client of its own, and the task that runs it."""

from importlib import import_module
from typing import Any, Final

import msgspec

from concurrent_nb.errors import AccessRefused
from concurrent_nb.tasks.system import ITaskSystem
from concurrent_nb.transport.connection_file import ConnectionFile
from concurrent_nb.transport.keys import KeyPair

#: the module that runs task systems: a name, because an application may not import what runs in a worker
HOST_MODULE: Final = "concurrent_nb.nodes.worker.system_host"


class SystemAccess(msgspec.Struct, frozen=True):
    """What the host of a task system needs to be an application of its own."""

    info: ConnectionFile  #: of the cluster, with a client's token and no other
    keys: KeyPair  #: for this system alone
    system_id: str
    client_id: str  #: name of the application that has pushed the system

    def __repr__(self) -> str:
        return f"SystemAccess({self.info!r}, system_id={self.system_id!r})"


def restricted_access(info: ConnectionFile, keys: KeyPair, system_id: str, client_id: str) -> SystemAccess:
    """Return the part of a connection file that a task system may have. Raises AccessRefused without a client's token.

    It has no token of an admin or a slave. It has no proxy, which its user may need but not the cluster's machines.
    """
    token = info.tokens.get("client")
    if token is None:
        raise AccessRefused(
            f"the connection file of cluster {info.name!r} has no token for a client, so a task system cannot"
            " join; it may not have another role's token"
        )
    info = msgspec.structs.replace(info, tokens={"client": token}, compute_proxy=None)
    return SystemAccess(info, keys, system_id, client_id)


def run_system(system: ITaskSystem, access: SystemAccess) -> Any:
    """Run a task system as a task of kind "system_host"; see `nodes.worker.system_host.run_system`."""
    return import_module(HOST_MODULE).run_system(system, access)
