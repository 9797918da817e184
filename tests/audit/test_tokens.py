"""Audit entries of created and revoked tokens, and of refused logins."""

import pytest

from gateway.access.origin import os_user
from gateway.config import Settings
from tests.cli.programs import run
from tests.databases import SLOW_KINDS, Databases
from tests.serving import served


def output_of(*arguments: str) -> str:
    """The output of a command, which must succeed."""
    code, out, err = run(*arguments)
    assert code == 0, err
    return out


@pytest.mark.parametrize("kind", SLOW_KINDS)
def test_token_commands_and_refused_logins_are_recorded(databases: Databases, kind: str) -> None:
    url = databases.new(kind)
    token = output_of("token", "create", "ann", "--role", "admin", "--database-url", url).strip()
    output_of("token", "revoke", "ann", "--database-url", url)
    output_of("token", "create", "bob", "--role", "admin", "--database-url", url)
    with served(Settings(database_url=url)) as gateway:
        assert gateway.http.post("/graphql", json={"query": "{ viewer { name } }"}).status_code == 401
        assert gateway.http.get("/api", headers={"authorization": f"Bearer {token}"}).status_code == 401
        rows = gateway.run(
            gateway.gateway.database.read(
                lambda tx: tx.rows("SELECT action, outcome, surface, subject, caller_name FROM audit_entry ORDER BY id")
            )
        )
    found = [tuple(row) for row in rows]
    user = os_user()
    assert found == [
        ("CREATE_TOKEN", "SUCCEEDED", "COMMAND_LINE", "ann", user),
        ("REVOKE_TOKEN", "SUCCEEDED", "COMMAND_LINE", "ann", user),
        ("CREATE_TOKEN", "SUCCEEDED", "COMMAND_LINE", "bob", user),
        ("LOG_IN", "REFUSED", "GRAPHQL", None, None),
        ("LOG_IN", "REFUSED", "REST", None, None),
    ]
