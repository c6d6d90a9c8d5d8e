"""How a client reaches a slave's kernel: as a message has it, and as Jupyter's connection files have it."""

from typing import Any, Final

import msgspec

from concurrent_nb.errors import ProtocolError
from concurrent_nb.wire import messages as m

#: a slave that has not opened its kernel by then is waited for no more; importing IPython takes a second
OPEN_WITHIN_S: Final = 15.0


def connection_info(access: m.KernelAccess) -> dict[str, str | int]:
    """Give what Jupyter's clients read from a connection file."""
    info: dict[str, str | int] = {name: getattr(access, name) for name in access.__struct_fields__}
    if not access.curve_publickey:
        del info["curve_publickey"], info["curve_secretkey"]
    fixed = {"transport": "tcp", "signature_scheme": "hmac-sha256", "kernel_name": "concurrent_slave"}
    return {**info, **fixed}


def access_of(info: Any) -> m.KernelAccess:
    """Read what `connection_info` has written. Raises ProtocolError."""
    empty = {"curve_publickey": "", "curve_secretkey": ""}
    try:
        values = {**empty, **info}
        return msgspec.convert([values[name] for name in m.KernelAccess.__struct_fields__], m.KernelAccess)
    except (TypeError, KeyError, msgspec.ValidationError) as error:
        raise ProtocolError(f"the master gave what is no way to a kernel: {error}") from None
