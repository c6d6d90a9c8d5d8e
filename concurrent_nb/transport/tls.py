"""TLS for the control channel beyond this machine: a self-signed certificate, and contexts that trust only that one.

The master creates a certificate at each start and puts it into the connection file; clients accept exactly this
certificate, whatever host name they use, and need no authority. Creating one needs the package `cryptography` (extra
`tls`); trusting one needs only the standard library.
"""

import datetime
import ipaddress
import ssl
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Final, NamedTuple

from concurrent_nb.errors import AccessRefused, ConfigurationError

if TYPE_CHECKING:
    from cryptography import x509

#: certificates are back-dated, so that a slave whose clock is slow accepts them
_BACK_DATED: Final = datetime.timedelta(days=1)
_VALID: Final = datetime.timedelta(days=3650)


class TlsMaterial(NamedTuple):
    """A certificate, which the connection file contains, and its key, which never leaves the master."""

    certificate_pem: str
    key_pem: str

    def __repr__(self) -> str:
        return "TlsMaterial(certificate_pem=..., key_pem=<hidden>)"


def make_tls(hosts: Iterable[str]) -> TlsMaterial:
    """Create a self-signed certificate for these hosts. Raises ConfigurationError without `cryptography`."""
    try:
        from cryptography import x509
        from cryptography.hazmat.primitives import hashes, serialization
        from cryptography.hazmat.primitives.asymmetric import ec
    except ImportError:
        text = "TLS needs the package cryptography, which is not installed: pip install 'concurrent-nb[tls]'"
        raise ConfigurationError(text) from None
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "concurrent_nb master")])
    now = datetime.datetime.now(datetime.UTC)
    certificate = (
        x509.CertificateBuilder(name, name, key.public_key(), x509.random_serial_number())
        .not_valid_before(now - _BACK_DATED)
        .not_valid_after(now + _VALID)
        .add_extension(x509.SubjectAlternativeName([_general_name(host) for host in hosts]), critical=False)
        # It may not sign other certificates.
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .sign(key, hashes.SHA256())
    )
    key_bytes = key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    return TlsMaterial(certificate.public_bytes(serialization.Encoding.PEM).decode(), key_bytes.decode())


def server_context(material: TlsMaterial) -> ssl.SSLContext:
    """Return the context of a server with this certificate. Raises ConfigurationError if it is invalid."""
    # here, because clients import this module too, and users wait for their start
    import tempfile

    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    # The ssl module reads a key only from a file, so write it into a private folder for a moment.
    with tempfile.TemporaryDirectory(prefix="concurrent_nb-tls-") as folder:
        file = Path(folder) / "master.pem"
        file.touch(mode=0o600)
        file.write_text(material.key_pem + material.certificate_pem)
        try:
            context.load_cert_chain(file)
        except ssl.SSLError as error:
            raise ConfigurationError(f"the TLS certificate or its key is not usable: {error}") from None
    return context


def client_context(certificate_pem: str) -> ssl.SSLContext:
    """Return the context of a client that accepts only the owner of this certificate. Raises ConfigurationError."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    # A pinned certificate identifies its owner by the key, so the address does not matter.
    context.check_hostname = False
    try:
        context.load_verify_locations(cadata=certificate_pem)
    except (ssl.SSLError, ValueError) as error:
        raise ConfigurationError(f"the TLS certificate in the connection file is not usable: {error}") from None
    return context


def check_pinned(connection: ssl.SSLSocket | ssl.SSLObject, certificate_pem: str) -> None:
    """Raise AccessRefused unless the peer has exactly this certificate, not one that it has signed."""
    if connection.getpeercert(binary_form=True) != ssl.PEM_cert_to_DER_cert(certificate_pem):
        raise AccessRefused("the master's TLS certificate is not the one in the connection file")


def _general_name(host: str) -> "x509.GeneralName":
    from cryptography import x509

    try:
        return x509.IPAddress(ipaddress.ip_address(host))
    except ValueError:
        return x509.DNSName(host)
