"""Every attribute of every class, asked for in every way: each is a column, an expression, or refused."""

import pytest

from gateway.rest.attributes import Attribute
from gateway.rest.classes import SNAPSHOTS, TASKS, VMS, Class
from tests.rest.world import Rest

PATHS = {"/vms": VMS, "/tasks": TASKS, "/vms/11/snapshots": SNAPSHOTS}  # instances have the attributes of vms
VALUES = {"text": "'a*'", "integer": "9223372036854775807", "id": "1", "boolean": "true", "moment": "today"}


def operators(attribute: Attribute) -> list[str]:
    """The operators that go with a plain value, but for `=` and `!=`."""
    equality, relations, patterns = ["==", "!=="], ["<", "<=", ">", ">="], ["=~", "!~"]
    return (
        equality + (relations if attribute.kind != "boolean" else []) + (patterns if attribute.kind == "text" else [])
    )


@pytest.mark.parametrize("path", PATHS)
def test_filters_and_sorts(readable: Rest, path: str) -> None:
    class_: Class = PATHS[path]
    everything = readable.get(path, hide="resources")["count"]
    for name, attribute in class_.attributes.items():
        if attribute.kind == "opaque":
            readable.refusal(path, filter=f"{name}=NULL")
            readable.refusal(path, sort_by=name)
            continue
        value = VALUES[attribute.kind]
        null = readable.get(path, filter=f"{name}=NULL", limit=0)["subquery_count"]
        assert null == 0 or attribute.nullable, name
        if attribute.kind == "moment":
            readable.get(path, filter=[f"or {name}{operator}{value}" for operator in "=<>"], limit=0)
        else:
            both = [readable.get(path, filter=f"{name}{sign}{value}", limit=0) for sign in ("=", "!=")]
            assert sum(page["subquery_count"] for page in both) == everything, name
            readable.get(path, filter=[f"or {name}{operator}{value}" for operator in operators(attribute)], limit=0)
        assert readable.get(path, sort_by=name, sort_order="desc")["subcount"] == everything
        if attribute.folded is None:
            readable.refusal(path, sort_by=name, sort_options="ignore_case")
        else:
            readable.get(path, sort_by=name, sort_options="ignore_case", limit=1)


@pytest.mark.parametrize("path", PATHS)
def test_rows(readable: Rest, path: str) -> None:
    class_ = PATHS[path]
    for name, attribute in class_.attributes.items():
        if not attribute.virtual:
            row = readable.get(path, expand="resources", attributes=name, limit=1)["resources"][0]
            assert set(row) == {"href", "id", name}
    for name, association in class_.associations.items():
        if name not in class_.subcollections:
            named = ",".join(f"{name}.{inner}" for inner in association.attributes())
            row = readable.get(path, expand="resources", attributes=f"id,{named}", limit=1)["resources"][0]
            assert row[name] is None or set(row[name]) == set(association.attributes())
            assert readable.get(path, expand="resources", attributes=f"id,{name}", limit=1)["subcount"] == 1
