"""The limits in `docs/identity.md` are those of the code, and no credential appears in any output."""

import logging
from pathlib import Path
from typing import Any

import pytest

from gateway.access import credentials, jwks, login_throttle, opaque_tokens, sessions
from gateway.access.authentication import REJECTED_TTL
from gateway.access.keys import MIN_SECRET_BYTES
from gateway.access.lookup_batch import MAX_NUMBERS
from gateway.config import Settings
from tests.access.clients import VM, Socket, basic, bearer, create_token
from tests.access.issuer import AUDIENCE, ISSUER, SECRET, signed
from tests.cli.programs import Program, serving
from tests.databases import Databases
from tests.serving import Served, served


def test_documented_limits_are_those_of_the_code(root: Path) -> None:
    text = " ".join((root / "docs/identity.md").read_text().split())
    for sentence in (
        f"{login_throttle.BURST} at once, then one every {login_throttle.SECONDS_PER_FAILURE:g} seconds",
        f"for all requests of a process that wait (at most {MAX_NUMBERS})",
        f"repeated within {REJECTED_TTL:g} seconds is refused",
        f"revocation takes effect within `GATEWAY_CREDENTIALS_TRUSTED` ({Settings().credentials_trusted:g} seconds)",
        f"after {sessions.MAX_LIFETIME.total_seconds() / 3_600:g} hours",
        f"A caller has at most {sessions.MAX_PER_CALLER};",
        f"a shared secret of at least {MIN_SECRET_BYTES} bytes",
        f"when they are {jwks.REFRESH_AFTER / 60:g} minutes old",
        f"at most every {jwks.MIN_INTERVAL:g} seconds",
        f"A fetch takes at most {jwks.FETCH_TIMEOUT:g} seconds and {jwks.MAX_BYTES // 1_024} KiB",
        f"credentials of more than {credentials.MAX_BYTES} bytes",
    ):
        assert sentence in text, sentence
    assert (jwks.MAX_AGE, sessions.IDLE_TIMEOUT.total_seconds(), sessions.TOUCH_INTERVAL.total_seconds()) == (
        3_600,
        600,
        60,
    )
    assert opaque_tokens.parse(f"sgw_1_{'0' * 64}") is not None


WRONG = f"sgw_1_{'0123456789abcdef' * 4}"
JWT_SETTINGS: dict[str, Any] = {"jwt_issuer": ISSUER, "jwt_secret": SECRET}


def send_credentials(gateway: Served | Program, token: str) -> list[str]:
    """Sends valid and wrong credentials over every transport and in every header. Returns what no output may contain.

    Credentials also without their beginning, which would be enough to use them.
    """
    jwt = signed(SECRET, "HS256")
    sent = [
        bearer(token),
        basic("ci", token),
        {"x-auth-token": token},
        bearer(jwt),
        bearer(WRONG),
        basic("x", WRONG),
    ]
    statuses = [gateway.http.post("/graphql", json={"query": VM}, headers=headers).status_code for headers in sent]
    assert statuses == [200, 200, 200, 200, 401, 401]
    session = gateway.http.get("/api/auth", headers=bearer(token)).json()["auth_token"]
    for payload in ({"authorization": f"Bearer {token}"}, {"authorization": f"Bearer {WRONG}"}):
        with Socket(gateway, payload, bearer(session)) as socket:
            socket.await_close() if WRONG in payload["authorization"] else socket.receive()
    return [token, token[6:], jwt, jwt.rpartition(".")[2], WRONG, WRONG[6:], session, session[6:], SECRET]


@pytest.mark.thorough  # starts a process
def test_no_credential_is_logged_or_printed(databases: Databases) -> None:
    url = databases.new("sqlite")
    token = create_token(url)
    settings = {**JWT_SETTINGS, "jwt_audience": AUDIENCE, "log_level": "debug"}
    with serving("--demo", "--database-url", url, **settings) as program:
        assert "Every request needs a token" in program.greeting
        secrets = send_credentials(program, token)
        program.process.terminate()
        out, err = program.process.communicate(timeout=60)
    output = program.greeting + out + err
    assert "Authentication failed address=127.0.0.1 token=sgw_1_… " in output
    assert [secret for secret in secrets if secret in output] == []


def test_no_credential_is_logged(databases: Databases, caplog: pytest.LogCaptureFixture) -> None:
    """The same in this process, without the banner and the format of log lines."""
    url = databases.new("sqlite", demo=True)
    token = create_token(url)
    settings = Settings(database_url=url, jwt_audience=(AUDIENCE,), **JWT_SETTINGS)
    with caplog.at_level(logging.DEBUG), served(settings) as gateway:
        secrets = send_credentials(gateway, token)
    logged = [record for record in caplog.records if record.name.startswith("gateway")]
    output = "\n".join(f"{record.getMessage()} {record.__dict__} {record.exc_text}" for record in logged)
    assert "Authentication failed address=127.0.0.1 token=sgw_1_… " in output
    assert [secret for secret in secrets if secret in output] == []
