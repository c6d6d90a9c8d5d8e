"""The identity of a master travels in one line, and its repr shows no secret."""

import pytest

from concurrent_nb.errors import ProtocolError
from concurrent_nb.nodes.common.owner_wishes import LINE_BYTES_MAX
from concurrent_nb.transport import keys
from concurrent_nb.transport.master_identity import MasterIdentity, identity_of
from concurrent_nb.transport.tls import make_tls


def identity(hosts: list[str]) -> MasterIdentity:
    pair, tls = keys.fresh(), make_tls(hosts)
    return MasterIdentity(
        public_key=pair.public.decode(),
        secret_key=pair.secret.decode(),
        tokens={role: keys.fresh_token() for role in ("admin", "client", "slave")},
        certificate_pem=tls.certificate_pem,
        certificate_key_pem=tls.key_pem,
        control_port=4711,
        compute_ports=dict.fromkeys(hosts, 65535),
        epoch=1_700_000_000_000,
    )


def test_it_is_one_line_that_fits() -> None:
    pytest.importorskip("cryptography")
    one = identity([f"fd00::{number:x}:ffff:ffff" for number in range(50)])
    line = one.line()
    assert "\n" not in line
    assert len(line) < LINE_BYTES_MAX
    assert identity_of(line) == one
    assert one.secret_key not in repr(one)
    assert one.tokens["admin"] not in repr(one)
    assert "PRIVATE KEY" not in repr(one)


@pytest.mark.parametrize("line", ["", "{}", "[]", "nonsense", '{"control_port": "x"}'])
def test_another_line_is_refused(line: str) -> None:
    with pytest.raises(ProtocolError, match="no identity of a master"):
        identity_of(line)
