"""TLS: served, renewed while it serves, bounded in time; and what is told when its files are no good."""

import datetime
import signal
import socket
import ssl
from pathlib import Path
from typing import Any

import httpx2
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID
from websockets.sync.client import connect

from tests.cli.programs import refusal, serving
from tests.databases import Databases

pytestmark = pytest.mark.thorough  # servers in processes of their own, and waits that are real

PEM = serialization.Encoding.PEM


def write_key(file: Path, password: bytes | None = None) -> ec.EllipticCurvePrivateKey:
    key = ec.generate_private_key(ec.SECP256R1())
    secret = serialization.BestAvailableEncryption(password) if password else serialization.NoEncryption()
    file.write_bytes(key.private_bytes(PEM, serialization.PrivateFormat.PKCS8, secret))
    return key


def write_certificate(file: Path, key: ec.EllipticCurvePrivateKey) -> int:
    """Of localhost and 127.0.0.1, signed by itself; its number."""
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "localhost")])
    number, now = x509.random_serial_number(), datetime.datetime.now(datetime.UTC)
    names = x509.SubjectAlternativeName([x509.DNSName("localhost")])
    certificate = (
        x509.CertificateBuilder(name, name, key.public_key(), number)
        .not_valid_before(now - datetime.timedelta(days=1))
        .not_valid_after(now + datetime.timedelta(days=1))
        .add_extension(names, critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .sign(key, hashes.SHA256())
    )
    file.write_bytes(certificate.public_bytes(PEM))
    return number


@pytest.fixture
def files(tmp_path: Path) -> tuple[Path, Path]:
    certificate, key = tmp_path / "gateway.pem", tmp_path / "gateway.key"
    write_certificate(certificate, write_key(key))
    return certificate, key


def trusting(certificate: Path) -> ssl.SSLContext:
    return ssl.create_default_context(cafile=str(certificate))


def served_number(port: int) -> int:
    """The number of the certificate that a new connection is shown."""
    context = ssl.create_default_context()
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    with socket.create_connection(("127.0.0.1", port), 10) as plain, context.wrap_socket(plain) as secure:
        shown = secure.getpeercert(binary_form=True)
    assert shown is not None
    return x509.load_der_x509_certificate(shown).serial_number


def test_it_serves_by_tls_and_renews(databases: Databases, files: tuple[Path, Path]) -> None:
    certificate, key = files
    settings: dict[str, Any] = {"tls_certificate": certificate, "tls_key": key, "head_timeout": 0.3}
    with serving("--demo", "--host", "localhost", database_url=databases.new("sqlite"), **settings) as program:
        port = int(program.url.rpartition(":")[2])
        base = f"https://localhost:{port}"
        assert program.url.startswith("https://")
        with httpx2.Client(base_url=base, verify=trusting(certificate), timeout=30, trust_env=False) as client:
            answer = client.post("/graphql", json={"query": "{ viewer { name } }"}, headers={"origin": base})
            assert answer.json() == {"data": {"viewer": {"name": "local"}}}
            assert answer.headers["strict-transport-security"] == "max-age=31536000"
            assert client.get("/api").json()["collections"][0]["href"].startswith("https://127.0.0.1:")
        with connect(
            base.replace("https", "wss") + "/graphql",
            subprotocols=["graphql-transport-ws"],  # type: ignore[list-item]
            ssl=trusting(certificate),
            proxy=None,
        ) as opened:
            opened.send('{"type": "connection_init"}')
            assert opened.recv(10) == '{"type":"connection_ack"}'
        with socket.create_connection(("127.0.0.1", port), 10) as silent:  # a handshake that never comes
            assert silent.recv(1) == b""
        before = served_number(port)
        key.write_text("nonsense")
        program.process.send_signal(signal.SIGHUP)
        assert served_number(port) == before
        after = write_certificate(certificate, write_key(key))
        while served_number(port) != after:
            program.process.send_signal(signal.SIGHUP)
        code, out, err = program.stop(signal.SIGTERM)
        assert (code, out) == (0, "stopped\n")
        assert "the certificate is not renewed: GATEWAY_TLS_CERTIFICATE: " in err


def test_files_that_are_no_good(databases: Databases, files: tuple[Path, Path], tmp_path: Path) -> None:
    certificate, key = files
    other, nothing, locked = tmp_path / "other.key", tmp_path / "nothing", tmp_path / "locked.key"
    write_key(other)
    write_key(locked, b"secret")

    def told(tls_certificate: Path | str, tls_key: Path | str) -> str:
        url = databases.new("sqlite")
        return refusal("serve", database_url=url, port=0, tls_certificate=tls_certificate, tls_key=tls_key)

    pem = f"{certificate} and {certificate} hold no certificate and its key as PEM"
    assert told(certificate, other) == (
        f"GATEWAY_TLS_KEY: the key in {other} is not that of the certificate in {certificate}"
    )
    assert told(certificate, locked) == (
        f"GATEWAY_TLS_KEY: the key in {locked} is encrypted: store it without a password"
    )
    assert told(certificate, "") == f"GATEWAY_TLS_CERTIFICATE: {pem}"
    assert told(nothing, key) == f"GATEWAY_TLS_CERTIFICATE: {nothing} cannot be read (no such file or directory)"
    assert told(certificate, nothing) == f"GATEWAY_TLS_KEY: {nothing} cannot be read (no such file or directory)"
    assert told("", key) == "GATEWAY_TLS_KEY is of no use without GATEWAY_TLS_CERTIFICATE"


@pytest.mark.parametrize("proxy", ["*", "proxy.example", "10.0.0.1/8"])
def test_a_proxy_that_is_no_address(databases: Databases, proxy: str) -> None:
    assert refusal("serve", database_url=databases.new("sqlite"), port=0, trusted_proxies=proxy) == (
        f"GATEWAY_TRUSTED_PROXIES must list addresses and networks such as 10.0.0.0/8, not {proxy!r}"
    )
