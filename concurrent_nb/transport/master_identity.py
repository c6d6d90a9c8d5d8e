"""What makes a master the one that nodes and copies of its connection file know: its keys, its tokens, its ports.

The process that starts a master keeps its identity in memory, and gives it to the next one when the master has died. So
copies of the connection file on other machines remain valid. Only a journal has it in a file.
"""

import msgspec

from concurrent_nb.errors import ProtocolError


class MasterIdentity(msgspec.Struct, frozen=True, kw_only=True):
    """The identity of a master."""

    public_key: str  #: CURVE, Z85
    secret_key: str
    tokens: dict[str, str]  #: by role
    certificate_pem: str | None = None  #: of the control channel; None without TLS
    certificate_key_pem: str | None = None
    control_port: int
    compute_ports: dict[str, int]  #: by address
    epoch: int  #: of the last master
    journal: str = ""  #: id of its journal, in hexadecimal; "" without one

    def __repr__(self) -> str:  # keys must not be printed or logged
        return f"MasterIdentity(public_key={self.public_key!r}, control_port={self.control_port}, epoch={self.epoch})"

    def line(self) -> str:
        """Return it as one line, for `identity_of`."""
        return msgspec.json.encode(self).decode()


def identity_of(line: str | bytes) -> MasterIdentity:
    """Return the identity in a line. Raises ProtocolError."""
    try:
        return msgspec.json.decode(line, type=MasterIdentity)
    except msgspec.DecodeError as error:
        raise ProtocolError(f"this is no identity of a master: {error}") from None
