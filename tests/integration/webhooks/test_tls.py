"""TLS to a pinned address: whoever answers there must prove that it is the host that the URL names."""

import datetime as dt
import socket
import ssl
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from dalp.webhooks import addresses, posting
from dalp.webhooks.posting import post
from tests.integration.webhooks.receiver import Receiver, receiving

HOST = "receiver.example"


@pytest.fixture
def certificate(tmp_path: Path) -> Path:
    """A certificate for the host, its own authority, with its key."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, HOST)])
    now = dt.datetime.now(dt.UTC)
    made = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(1)
        .not_valid_before(now - dt.timedelta(hours=1))
        .not_valid_after(now + dt.timedelta(hours=1))
        .add_extension(x509.SubjectAlternativeName([x509.DNSName(HOST)]), critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .sign(key, hashes.SHA256())
    )
    private = key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    path = tmp_path / "receiver.pem"
    path.write_bytes(private + made.public_bytes(serialization.Encoding.PEM))
    return path


@pytest.fixture
def receiver(certificate: Path) -> Iterator[Receiver]:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate)
    yield from receiving(context)


@pytest.fixture
def names(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """What the name server says, one answer after the other; it may be asked no more often."""
    answers = ["127.0.0.1"]

    def getaddrinfo(host: str, port: int, *_: Any, **__: Any) -> list[Any]:
        if host == "127.0.0.1":  # of `create_connection`: an address already
            return real(host, port, type=socket.SOCK_STREAM)
        assert answers, "asked a second time: it could have told another address by now"
        return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", (answers.pop(0), port))]

    real = socket.getaddrinfo
    monkeypatch.setattr(addresses.socket, "getaddrinfo", getaddrinfo)
    return answers


@pytest.fixture
def trusted(certificate: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    context = ssl.create_default_context(cafile=str(certificate))
    monkeypatch.setattr(posting, "_tls", lambda: context)


@pytest.mark.case("PE16")
@pytest.mark.usefixtures("names", "trusted")
def test_connection_goes_to_the_address_that_was_checked_and_asks_for_the_host(receiver: Receiver) -> None:
    answer = post(f"https://{HOST}:{receiver.port}/hook", {"webhook-id": "1"}, b"{}")
    assert answer.status == 200, answer.error
    assert receiver.got[0].headers["host"] == f"{HOST}:{receiver.port}"


@pytest.mark.usefixtures("names", "trusted")
def test_certificate_of_another_host_is_not_accepted(receiver: Receiver) -> None:
    answer = post(f"https://other.example:{receiver.port}/hook?key=verysecret", {}, b"{}")
    assert "its certificate is not accepted: Hostname mismatch" in answer.error
    assert "verysecret" not in answer.error
    assert receiver.got == []


@pytest.mark.usefixtures("names")
def test_certificate_that_nobody_vouches_for_is_not_accepted(receiver: Receiver) -> None:
    answer = post(f"https://{HOST}:{receiver.port}/hook", {}, b"{}")
    assert answer.error == "its certificate is not accepted: self-signed certificate"
    assert receiver.got == []


@pytest.mark.usefixtures("names")
def test_plain_server_where_tls_is_wanted_is_no_answer(other: Receiver) -> None:
    answer = post(f"https://{HOST}:{other.port}/hook", {}, b"{}")
    assert answer.error.startswith("no TLS connection: ")
    assert other.got == []
