"""What an application gives a task system to be a client of its own, and the task that has it run on a host."""

from importlib import import_module
from typing import Any, Final

import msgspec

from concurrent_nb.errors import AccessRefused
from concurrent_nb.tasks.system import ITaskSystem
from concurrent_nb.transport.connection_file import ConnectionFile
from concurrent_nb.transport.keys import KeyPair

#: where the host's code is: a name, because an application does not import what runs in a worker
HOST_MODULE: Final = "concurrent_nb.nodes.worker.system_host"


class SystemAccess(msgspec.Struct, frozen=True):
    """What a host needs to be an application of its own."""

    info: ConnectionFile  #: of the cluster, with a client's token and no other
    keys: KeyPair  #: for this system alone
    system_id: str
    client_id: str  #: name of the application that has pushed the system

    def __repr__(self) -> str:
        return f"SystemAccess({self.info!r}, system_id={self.system_id!r})"


def restricted_access(info: ConnectionFile, keys: KeyPair, system_id: str, client_id: str) -> SystemAccess:
    """Cut a connection file down to what a system may have: never an admin's or a slave's token.

    Nor the proxy that its user takes to the cluster, because the system is there.
    """
    token = info.tokens.get("client")
    if token is None:
        raise AccessRefused(
            f"the connection file of cluster {info.name!r} has no token for a client, so a task system cannot be let"
            " in; another role's token is not given away"
        )
    info = msgspec.structs.replace(info, tokens={"client": token}, compute_proxy=None)
    return SystemAccess(info, keys, system_id, client_id)


def run_system(system: ITaskSystem, given: SystemAccess) -> Any:
    """Run a task system as a task of kind host; see `nodes.worker.system_host.run_system`."""
    return import_module(HOST_MODULE).run_system(system, given)
