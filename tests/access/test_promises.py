"""What `docs/identity.md` promises: its numbers are the code's, and no secret is ever told."""

from pathlib import Path

from gateway.access import credentials, jwks, login_throttle, opaque_tokens, sessions
from gateway.access.authentication import REFUSED_FOR
from gateway.access.keys import SHORTEST_SECRET
from gateway.config import Settings
from tests.access.asking import VM, Socket, basic, bearer, make_token
from tests.access.issuer import AUDIENCE, NAME, SECRET, signed
from tests.cli.programs import serving
from tests.databases import Databases


def test_the_numbers_are_those_of_the_code(root: Path) -> None:
    told = " ".join((root / "docs/identity.md").read_text().split())
    for sentence in (
        f"{login_throttle.BURST} are answered at once, then one every {login_throttle.EVERY:g} seconds",
        f"sent again within {REFUSED_FOR:g} seconds is refused",
        f"**A revocation takes at most `GATEWAY_CREDENTIALS_TRUSTED` ({Settings().credentials_trusted:g} seconds)",
        f"after {sessions.LONGEST.total_seconds() / 3_600:g} hours",
        f"A caller has at most {sessions.MOST};",
        f"a shared secret of at least {SHORTEST_SECRET} bytes",
        f"when they are {jwks.FRESH / 60:g} minutes old",
        f"at most every {jwks.BETWEEN:g} seconds",
        f"A fetch takes at most {jwks.TIMEOUT:g} seconds and {jwks.LONGEST // 1_024} KiB",
        f"credentials of more than {credentials.LONGEST} bytes",
    ):
        assert sentence in told, sentence
    assert (jwks.STALE, sessions.TTL.total_seconds(), sessions.TOUCH_AFTER.total_seconds()) == (3_600, 600, 60)
    assert opaque_tokens.parse(f"sgw_1_{'0' * 64}") is not None


def test_nothing_that_lets_in_is_logged_or_shown(databases: Databases) -> None:
    """By the program, with everything that it can log, whatever way the credentials come in."""
    url = databases.new("sqlite")
    token = make_token(url)
    jwt = signed(SECRET, "HS256")
    wrong = f"sgw_1_{'0123456789abcdef' * 4}"
    settings = {"jwt_issuer": NAME, "jwt_audience": AUDIENCE, "jwt_secret": SECRET, "log_level": "debug"}
    with serving("--demo", "--database-url", url, **settings) as program:
        assert "Everybody is asked for a token" in program.greeting
        ways = [
            bearer(token),
            basic("ci", token),
            {"x-auth-token": token},
            bearer(jwt),
            bearer(wrong),
            basic("x", wrong),
        ]
        statuses = [program.http.post("/graphql", json={"query": VM}, headers=way).status_code for way in ways]
        assert statuses == [200, 200, 200, 200, 401, 401]
        session = program.http.get("/api/auth", headers=bearer(token)).json()["auth_token"]
        for payload in ({"authorization": f"Bearer {token}"}, {"authorization": f"Bearer {wrong}"}):
            with Socket(program, payload, bearer(session)) as socket:
                socket.closed() if wrong in payload["authorization"] else socket.receive()
        program.process.terminate()
        out, err = program.process.communicate(timeout=30)
    said = program.greeting + out + err
    assert "sgw_1_… failed" in said
    for secret in (token, token[6:], jwt, jwt.rpartition(".")[2], wrong, wrong[6:], session, session[6:], SECRET):
        assert secret not in said
