"""Documents are parsed once, and long ones not on the event loop; what was invalid stays invalid."""

import threading
from typing import Any

import graphql
import pytest

from gateway.graphql.execution import documents
from tests.serving import Served

FIELDS = " ".join(f"a{number}: __typename" for number in range(40))
LONG, SHORT = f"{{ {FIELDS} }}", "{ __typename }"


def test_long_documents_are_not_validated_on_the_event_loop(gateway: Served, monkeypatch: pytest.MonkeyPatch) -> None:
    threads: list[int] = []

    def validate(*arguments: Any, **options: Any) -> Any:
        threads.append(threading.get_ident())
        return original(*arguments, **options)

    async def loop_thread() -> int:
        return threading.get_ident()

    original = graphql.validate
    monkeypatch.setattr(documents, "validate", validate)
    loop = gateway.run(loop_thread())
    for name, document in (("Short", SHORT), ("Long", LONG)):
        for _ in range(3):
            assert "data" in gateway.post(f"query {name} {document}")
    assert [thread == loop for thread in threads] == [True, False]


@pytest.mark.parametrize("text", [SHORT, LONG], ids=["short", "long"])
def test_an_invalid_document_is_refused_each_time(gateway: Served, text: str) -> None:
    query = text.replace("{", "query ($refused: Int) {", 1)
    first, second = gateway.post(query), gateway.post(query)
    assert first == second
    assert first["errors"][0]["message"] == "Variable '$refused' is never used."
