"""The operations that GraphiQL opens with, on a gateway without any data."""

import re
from collections.abc import Iterator
from pathlib import Path

import pytest
from graphql import build_schema, parse, validate

from gateway.config import Settings
from gateway.graphql.schema.build import print_sdl
from tests.databases import Databases
from tests.serving import Served, served


@pytest.fixture(scope="module")
def empty(databases: Databases) -> Iterator[Served]:
    with served(Settings(database_url=databases.new("sqlite"))) as gateway:
        yield gateway


@pytest.fixture(scope="module")
def samples(root: Path) -> dict[str, str]:
    """The documents by the name of their operation, with the placeholder that they have until a machine is found."""
    text = (root / "gateway/web/samples.js").read_text()
    documents = [
        document.replace("${MACHINE_ID}", "MACHINE_ID") for document in re.findall(r"`\\\n(.*?)`", text, re.DOTALL)
    ]
    named = {name: document for document in documents for name in re.findall(r"^\w+ (\w+) {", document, re.MULTILINE)}
    assert list(named) == ["Machines", "TakeSnapshot", "WatchOperations", "FindMachine"]
    return named


def test_samples_are_valid(samples: dict[str, str]) -> None:
    schema = build_schema(print_sdl())
    assert [error.message for document in samples.values() for error in validate(schema, parse(document))] == []


def test_samples_need_no_data(empty: Served, samples: dict[str, str]) -> None:
    assert empty.ask(samples["Machines"]) == {"machines": {"totalCount": 0, "nodes": []}}
    assert empty.ask(samples["FindMachine"]) == {"machines": {"nodes": []}}
    refused = empty.ask(samples["TakeSnapshot"])["createSnapshot"]
    assert (refused["operation"], refused["snapshot"]) == (None, None)
    assert [error["code"] for error in refused["errors"]] == ["INVALID"]
