"""A JWT issuer for tests: real keys of every kind, and an HTTP server that publishes them, correctly or not."""

import base64
import hashlib
import hmac
import json
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import jwt
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from jwt.algorithms import ECAlgorithm, OKPAlgorithm, RSAAlgorithm

ISSUER = "https://issuer.example/"
AUDIENCE = "snapshots"
SECRET = "a shared secret of more than 32 bytes"

RSA = rsa.generate_private_key(public_exponent=65_537, key_size=2_048)
OTHER_RSA = rsa.generate_private_key(public_exponent=65_537, key_size=2_048)
WEAK_RSA = rsa.generate_private_key(public_exponent=65_537, key_size=1_024)
EC = ec.generate_private_key(ec.SECP256R1())
ED25519 = ed25519.Ed25519PrivateKey.generate()

_KINDS: dict[type[Any], Callable[[Any], str]] = {
    rsa.RSAPrivateKey: RSAAlgorithm.to_jwk,
    ec.EllipticCurvePrivateKey: ECAlgorithm.to_jwk,
    ed25519.Ed25519PrivateKey: OKPAlgorithm.to_jwk,
}


def pem(key: Any) -> bytes:
    """The public key in PEM format."""
    text: bytes = key.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
    return text


def jwk(key: Any, kid: str | None, **more: Any) -> dict[str, Any]:
    """The public key as a member of a JWKS."""
    to_jwk = next(to_jwk for kind, to_jwk in _KINDS.items() if isinstance(key, kind))
    return {**json.loads(to_jwk(key.public_key())), **({} if kid is None else {"kid": kid}), **more}


def claims(**changes: Any) -> dict[str, Any]:
    """Valid claims of the caller `ann` with the role `operator`, with `changes`; None removes a claim."""
    now = int(time.time())
    valid = {"iss": ISSUER, "aud": AUDIENCE, "sub": "ann", "roles": ["operator"], "tenant": "default", "exp": now + 600}
    return {name: value for name, value in {**valid, **changes}.items() if value is not None}


def signed(
    key: Any = RSA, algorithm: str = "RS256", kid: str | None = "one", headers: Any = None, **changes: Any
) -> str:
    """A JWT of `ann`, signed with a library."""
    head = {**({} if kid is None else {"kid": kid}), **(headers or {})}
    return jwt.encode(claims(**changes), key, algorithm=algorithm, headers=head)


def forged(header: Any, payload: Any, secret: bytes | None = None) -> str:
    """A JWT that no library would create: unsigned, or signed with HMAC and arbitrary bytes as the secret."""
    parts = [part if isinstance(part, bytes) else json.dumps(part).encode() for part in (header, payload)]
    head, body = map(_segment, parts)
    signature = b"" if secret is None else hmac.digest(secret, f"{head}.{body}".encode(), hashlib.sha256)
    return f"{head}.{body}.{_segment(signature)}"


def _segment(text: bytes) -> str:
    return base64.urlsafe_b64encode(text).rstrip(b"=").decode()


class JwksServer:
    """A server that publishes a JWKS. Tests set its responses and read the number of requests."""

    def __init__(self, url: str) -> None:
        self.url = url
        self.keys: list[Any] = [jwk(RSA, "one")]
        self.status = 200
        self.body: bytes | None = None  # replaces the keys
        self.headers: dict[str, str] = {}
        self.request_count = 0
        self.responding = threading.Event()  # responses wait until it is set
        self.responding.set()


@contextmanager
def jwks_server() -> Iterator[JwksServer]:
    """Runs the server until the block is left."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            jwks.request_count += 1
            jwks.responding.wait(30)
            body = jwks.body if jwks.body is not None else json.dumps({"keys": jwks.keys}).encode()
            try:
                self.send_response(jwks.status)
                for name, value in jwks.headers.items():
                    self.send_header(name, value)
                self.send_header("content-length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)
            except OSError:
                pass  # the client has closed the connection

        def log_message(self, *_: Any) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        jwks = JwksServer(f"http://127.0.0.1:{server.server_port}/keys")
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        try:
            yield jwks
        finally:
            jwks.responding.set()
            server.shutdown()
            thread.join()
