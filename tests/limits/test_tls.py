"""TLS: serving, reloading the certificate on SIGHUP, the handshake timeout, and errors of the configured files."""

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
from tests.waiting import attempts

pytestmark = pytest.mark.thorough  # starts server processes and waits for real timeouts

PEM = serialization.Encoding.PEM


def write_key(file: Path, password: bytes | None = None) -> ec.EllipticCurvePrivateKey:
    key = ec.generate_private_key(ec.SECP256R1())
    secret = serialization.BestAvailableEncryption(password) if password else serialization.NoEncryption()
    file.write_bytes(key.private_bytes(PEM, serialization.PrivateFormat.PKCS8, secret))
    return key


def write_certificate(file: Path, key: ec.EllipticCurvePrivateKey) -> int:
    """Writes a self-signed certificate for localhost. Returns its serial number."""
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


def served_serial_number(port: int) -> int:
    """The serial number of the certificate that a new connection receives."""
    context = ssl.create_default_context()
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    with socket.create_connection(("127.0.0.1", port), 10) as plain, context.wrap_socket(plain) as secure:
        certificate = secure.getpeercert(binary_form=True)
    assert certificate is not None
    return x509.load_der_x509_certificate(certificate).serial_number


def test_tls_is_served_and_reloaded(databases: Databases, files: tuple[Path, Path]) -> None:
    certificate, key = files
    settings: dict[str, Any] = {"tls_certificate": certificate, "tls_key": key, "head_timeout": 2.0}
    with serving("--demo", "--host", "localhost", database_url=databases.new("sqlite"), **settings) as program:
        port = int(program.url.rpartition(":")[2])
        base = f"https://localhost:{port}"
        assert program.url.startswith("https://")
        with httpx2.Client(base_url=base, verify=trusting(certificate), timeout=30, trust_env=False) as client:
            answer = client.post("/graphql", json={"query": "{ viewer { name } }"}, headers={"origin": base})
            assert answer.json() == {"data": {"viewer": {"name": "local"}}}
            assert answer.headers["strict-transport-security"] == "max-age=31536000"
            assert client.get("/api").json()["collections"][0]["href"].startswith("https://localhost:")
        with connect(
            base.replace("https", "wss") + "/graphql",
            subprotocols=["graphql-transport-ws"],  # type: ignore[list-item]
            ssl=trusting(certificate),
            proxy=None,
        ) as opened:
            opened.send('{"type": "connection_init"}')
            assert opened.recv(60) == '{"type":"connection_ack"}'
        with socket.create_connection(("127.0.0.1", port), 10) as silent:  # never sends a handshake
            assert silent.recv(1) == b""
        before = served_serial_number(port)
        key.write_text("nonsense")
        program.process.send_signal(signal.SIGHUP)
        assert served_serial_number(port) == before
        after = write_certificate(certificate, write_key(key))
        for _ in attempts():
            if served_serial_number(port) == after:
                break
            program.process.send_signal(signal.SIGHUP)
        code, out, err = program.stop(signal.SIGTERM)
        assert (code, out) == (0, "stopped\n")
        assert "TLS certificate reload failed error=GATEWAY_TLS_CERTIFICATE: " in err


def test_invalid_files(databases: Databases, files: tuple[Path, Path], tmp_path: Path) -> None:
    certificate, key = files
    other, nothing, locked = tmp_path / "other.key", tmp_path / "nothing", tmp_path / "locked.key"
    write_key(other)
    write_key(locked, b"secret")

    def error_of(tls_certificate: Path | str, tls_key: Path | str) -> str:
        url = databases.new("sqlite")
        return refusal("serve", database_url=url, port=0, tls_certificate=tls_certificate, tls_key=tls_key)

    pem = f"{certificate} and {certificate} do not contain a certificate and its key in PEM format."
    assert error_of(certificate, other) == (
        f"GATEWAY_TLS_KEY: the key in {other} does not match the certificate in {certificate}."
    )
    assert error_of(certificate, locked) == (
        f"GATEWAY_TLS_KEY: the key in {locked} is encrypted. Store it without a password."
    )
    assert error_of(certificate, "") == f"GATEWAY_TLS_CERTIFICATE: {pem}"
    assert error_of(nothing, key) == f"GATEWAY_TLS_CERTIFICATE: {nothing} cannot be read (no such file or directory)."
    assert error_of(certificate, nothing) == f"GATEWAY_TLS_KEY: {nothing} cannot be read (no such file or directory)."
    assert error_of("", key) == "GATEWAY_TLS_KEY requires GATEWAY_TLS_CERTIFICATE."


@pytest.mark.parametrize("proxy", ["*", "proxy.example", "10.0.0.1/8"])
def test_a_trusted_proxy_must_be_an_address(databases: Databases, proxy: str) -> None:
    assert refusal("serve", database_url=databases.new("sqlite"), port=0, trusted_proxies=proxy) == (
        f"GATEWAY_TRUSTED_PROXIES must list addresses and networks such as 10.0.0.0/8, not {proxy!r}."
    )
