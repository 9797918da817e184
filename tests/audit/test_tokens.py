"""Tokens that are given out and taken back, and whoever is not let in, are on record."""

import pytest

from gateway.access.origin import account
from gateway.config import Settings
from tests.cli.programs import run
from tests.databases import SLOW_KINDS, Databases
from tests.serving import served


def given(*arguments: str) -> str:
    """What a command that succeeds prints."""
    code, out, err = run(*arguments)
    assert code == 0, err
    return out


@pytest.mark.parametrize("kind", SLOW_KINDS)
def test_tokens_are_given_and_taken_on_record(databases: Databases, kind: str) -> None:
    url = databases.new(kind)
    token = given("token", "create", "ann", "--role", "admin", "--database-url", url).strip()
    given("token", "revoke", "ann", "--database-url", url)
    given("token", "create", "bob", "--role", "admin", "--database-url", url)
    with served(Settings(database_url=url)) as gateway:
        assert gateway.http.post("/graphql", json={"query": "{ viewer { name } }"}).status_code == 401
        assert gateway.http.get("/api", headers={"authorization": f"Bearer {token}"}).status_code == 401
        rows = gateway.run(
            gateway.gateway.database.read(
                lambda tx: tx.rows("SELECT action, outcome, surface, subject, caller_name FROM audit_entry ORDER BY id")
            )
        )
    found = [tuple(row) for row in rows]
    me = account()
    assert found == [
        ("CREATE_TOKEN", "SUCCEEDED", "COMMAND_LINE", "ann", me),
        ("REVOKE_TOKEN", "SUCCEEDED", "COMMAND_LINE", "ann", me),
        ("CREATE_TOKEN", "SUCCEEDED", "COMMAND_LINE", "bob", me),
        ("LOG_IN", "REFUSED", "GRAPHQL", None, None),
        ("LOG_IN", "REFUSED", "REST", None, None),
    ]
