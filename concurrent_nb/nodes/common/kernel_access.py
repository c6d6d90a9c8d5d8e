"""How a client reaches a slave's kernel: as a message of the wire, and as the content of a Jupyter connection file."""

from typing import Any, Final

import msgspec

from concurrent_nb.errors import ProtocolError
from concurrent_nb.wire import messages as m

#: how long to wait for a slave to open its kernel; importing IPython takes a second
OPEN_WITHIN_S: Final = 15.0


def connection_info(access: m.KernelAccess) -> dict[str, str | int]:
    """Return the content of a connection file for Jupyter's clients."""
    info: dict[str, str | int] = {name: getattr(access, name) for name in access.__struct_fields__}
    if not access.curve_publickey:
        del info["curve_publickey"], info["curve_secretkey"]
    fixed = {"transport": "tcp", "signature_scheme": "hmac-sha256", "kernel_name": "concurrent_slave"}
    return {**info, **fixed}


def access_of(info: Any) -> m.KernelAccess:
    """Read what `connection_info` has returned. Raises ProtocolError."""
    empty = {"curve_publickey": "", "curve_secretkey": ""}
    try:
        values = {**empty, **info}
        return msgspec.convert([values[name] for name in m.KernelAccess.__struct_fields__], m.KernelAccess)
    except (TypeError, KeyError, msgspec.ValidationError) as error:
        raise ProtocolError(f"the master's answer is no access to a kernel: {error}") from None
