"""Open a slave's kernel, and write a connection file for it that any Jupyter client on this machine can use."""

import hashlib
from pathlib import Path
from typing import Final, NamedTuple

import msgspec

from concurrent_nb.errors import AccessRefused
from concurrent_nb.nodes.common.kernel_access import OPEN_WITHIN_S, access_of, connection_info
from concurrent_nb.transport import connection_file, private_files
from concurrent_nb.transport.connection_file import ConnectionFile
from concurrent_nb.transport.control_client import ControlClient
from concurrent_nb.wire.messages import KernelAccess

#: environment variable with the cluster of a kernel: its name, or the path of its connection file
CONNECTION_VARIABLE: Final = "CONCURRENT_NB_CONNECTION"
#: the master answers sooner than that
CALL_TIMEOUT_S: Final = OPEN_WITHIN_S + 5.0


class KernelFile(NamedTuple):
    """A Jupyter connection file for a slave's kernel."""

    path: Path
    is_ours: bool  #: this process has written it; else the slave has, on this machine, and removes it


def open_kernel(info: ConnectionFile, slave: str) -> KernelFile:
    """Open the kernel of a slave, and return a connection file for it.

    Raises AccessRefused without an admin's token, ConfigurationError for an unknown slave, KernelUnavailable if the
    slave cannot open a kernel, MasterUnreachable if no master answers.
    """
    token = info.tokens.get("admin")
    if token is None:
        raise AccessRefused(
            f"the connection file of cluster {info.name!r} has no admin's token, which opening a kernel needs"
        )
    with ControlClient(info.endpoints, token, info.certificate_pem, timeout_s=CALL_TIMEOUT_S) as control:
        access = access_of(control.call("open_kernel", slave=slave))
    path = file_for(access)
    content = msgspec.json.encode(connection_info(access))
    try:
        if private_files.read_private(path) == content:
            return KernelFile(path, is_ours=False)
    except FileNotFoundError:
        private_files.make_folder(path.parent)
    private_files.replace_private(path, content)
    return KernelFile(path, is_ours=True)


def attach_command(path: Path) -> str:
    """Return the command that attaches to a kernel: Jupyter finds the files in its runtime folder by name."""
    from jupyter_core.paths import jupyter_runtime_dir  # here, because slaves import this module and need no Jupyter

    name = path.name if path.parent == Path(jupyter_runtime_dir()) else str(path)
    return f"jupyter console --existing {name}"


def file_for(access: KernelAccess) -> Path:
    """Return the path of a kernel's connection file: the same for the slave and for a client on its machine."""
    digest = hashlib.sha256(f"{access.ip} {access.shell_port} {access.curve_publickey}".encode()).hexdigest()
    return connection_file.folder_to_write() / f"kernel-slave-{digest[:12]}.json"
