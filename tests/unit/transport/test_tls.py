"""Certificates and the contexts that trust exactly one of them. The handshakes are in memory: no socket, no wait."""

import datetime
import ssl
import sys

import pytest
from cryptography import x509

from concurrent_nb.errors import AccessRefused, ConfigurationError
from concurrent_nb.transport import tls


def handshake(server: ssl.SSLContext, client: ssl.SSLContext) -> ssl.SSLObject:
    """Shake hands in memory, and return the client's end."""
    to_server, to_client = ssl.MemoryBIO(), ssl.MemoryBIO()
    client_end = client.wrap_bio(to_client, to_server, server_hostname="any.name")
    server_end = server.wrap_bio(to_server, to_client, server_side=True)
    ends = [client_end, server_end]
    for _ in range(10):
        for end in list(ends):
            try:
                end.do_handshake()
                ends.remove(end)
            except ssl.SSLWantReadError:
                pass
    assert not ends, "the handshake did not come to an end"
    return client_end


def test_the_owner_of_the_certificate_is_trusted_under_any_name() -> None:
    material = tls.make_tls(["127.0.0.1", "::1", "master.example"])
    end = handshake(tls.server_context(material), tls.client_context(material.certificate_pem))
    assert end.version() == "TLSv1.3"


def test_other_certificates_are_not_trusted() -> None:
    material, other = tls.make_tls(["127.0.0.1"]), tls.make_tls(["127.0.0.1"])
    with pytest.raises(ssl.SSLCertVerificationError):
        handshake(tls.server_context(other), tls.client_context(material.certificate_pem))


def test_the_certificate_is_for_its_hosts_and_lasts() -> None:
    certificate = x509.load_pem_x509_certificate(tls.make_tls(["10.0.0.1", "::1", "a.b"]).certificate_pem.encode())
    names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    assert [str(address) for address in names.get_values_for_type(x509.IPAddress)] == ["10.0.0.1", "::1"]
    assert names.get_values_for_type(x509.DNSName) == ["a.b"]
    assert not certificate.extensions.get_extension_for_class(x509.BasicConstraints).value.ca
    now = datetime.datetime.now(datetime.UTC)
    assert now - certificate.not_valid_before_utc > datetime.timedelta(hours=23)
    assert certificate.not_valid_after_utc - now > datetime.timedelta(days=3640)


def test_the_key_is_in_no_repr() -> None:
    material = tls.make_tls(["127.0.0.1"])
    assert "PRIVATE KEY" in material.key_pem
    assert "PRIVATE KEY" not in f"{material!r} {material}"


def test_old_protocols_are_refused() -> None:
    material = tls.make_tls(["127.0.0.1"])
    for context in (tls.server_context(material), tls.client_context(material.certificate_pem)):
        assert context.minimum_version == ssl.TLSVersion.TLSv1_2


def test_an_invalid_certificate_is_a_clear_error() -> None:
    for text in ("", "nonsense", "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n"):
        with pytest.raises(ConfigurationError, match="not usable"):
            tls.client_context(text)
    with pytest.raises(ConfigurationError, match="not usable"):
        tls.server_context(tls.TlsMaterial("x", "y"))


def test_a_key_of_another_certificate_is_a_clear_error() -> None:
    one, two = tls.make_tls(["a"]), tls.make_tls(["a"])
    with pytest.raises(ConfigurationError, match="not usable"):
        tls.server_context(tls.TlsMaterial(one.certificate_pem, two.key_pem))


def test_without_cryptography_the_error_names_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "cryptography", None)
    with pytest.raises(ConfigurationError, match=r"pip install 'concurrent-nb\[tls\]'"):
        tls.make_tls(["127.0.0.1"])


def test_only_the_pinned_certificate_itself_is_accepted() -> None:
    material, other = tls.make_tls(["a"]), tls.make_tls(["a"])
    gullible = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    gullible.check_hostname = False
    gullible.verify_mode = ssl.CERT_NONE
    end = handshake(tls.server_context(other), gullible)
    tls.check_pinned(end, other.certificate_pem)
    with pytest.raises(AccessRefused, match="not the one in the connection file"):
        tls.check_pinned(end, material.certificate_pem)
