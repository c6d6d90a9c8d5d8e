"""A one-time link to a cluster's web page, for `concurrent-nb dashboard` and `%concurrent dashboard`."""

import hashlib
import re
import ssl
from typing import Final, NamedTuple

from concurrent_nb.errors import ConfigurationError, ProtocolError
from concurrent_nb.transport.connection_file import ConnectionFile
from concurrent_nb.transport.control_client import ControlClient

#: seconds in which the link can be used
LINK_S: Final = 60

_PATH: Final = re.compile(r"/login\?code=[A-Za-z0-9_-]{16,256}")


class DashboardLink(NamedTuple):
    """A link to the web page of a cluster, which works once, within LINK_S seconds."""

    url: str
    fingerprint: str  #: SHA-256 of the master's certificate, which no authority has signed; "" without TLS


def dashboard_link(info: ConnectionFile) -> DashboardLink:
    """Ask the master for a link. Its host is that of the endpoint that has answered.

    The browser gets the role of the best token in the connection file: admin, else client. Raises ConfigurationError if
    the file has neither, and what `ControlClient.call` raises.
    """
    token = info.tokens.get("admin") or info.tokens.get("client")
    if token is None:
        raise ConfigurationError(f"the connection file of cluster {info.name!r} has no token of role admin or client")
    with ControlClient(info.endpoints, token, info.certificate_pem) as control:
        answer = control.call("one_time_link")
        path = answer.get("path") if isinstance(answer, dict) else None
        if not isinstance(path, str) or _PATH.fullmatch(path) is None:
            raise ProtocolError(f"the master of {info.name!r} answered one_time_link with something else than a path")
        url = control.endpoint.rstrip("/") + path
    return DashboardLink(url, "" if info.certificate_pem is None else _fingerprint(info.certificate_pem))


def _fingerprint(certificate_pem: str) -> str:
    digest = hashlib.sha256(ssl.PEM_cert_to_DER_cert(certificate_pem)).hexdigest().upper()
    return ":".join(digest[at : at + 2] for at in range(0, len(digest), 2))
