"""Every attribute of every class, in filters, sorts and rows: it works with every operator, or is refused."""

import pytest

from gateway.rest.attributes import Attribute
from gateway.rest.classes import SNAPSHOTS, TASKS, VMS, ResourceClass
from tests.rest.world import Rest

PATHS = {"/vms": VMS, "/tasks": TASKS, "/vms/11/snapshots": SNAPSHOTS}  # instances have the same attributes as vms
VALUES = {"text": "'a*'", "integer": "9223372036854775807", "id": "1", "boolean": "true", "timestamp": "today"}


def operators(attribute: Attribute) -> list[str]:
    """The operators that the attribute supports with a plain value, except `=` and `!=`."""
    equality, relations, patterns = ["==", "!=="], ["<", "<=", ">", ">="], ["=~", "!~"]
    return (
        equality + (relations if attribute.kind != "boolean" else []) + (patterns if attribute.kind == "text" else [])
    )


@pytest.mark.parametrize("path", PATHS)
def test_filters_and_sorts(shared_both: Rest, path: str) -> None:
    class_: ResourceClass = PATHS[path]
    everything = shared_both.get(path, hide="resources")["count"]
    for name, attribute in class_.attributes.items():
        if attribute.kind == "opaque":
            shared_both.refusal(path, filter=f"{name}=NULL")
            shared_both.refusal(path, sort_by=name)
            continue
        value = VALUES[attribute.kind]
        null = shared_both.get(path, filter=f"{name}=NULL", limit=0)["subquery_count"]
        assert null == 0 or attribute.nullable, name
        if attribute.kind == "timestamp":
            shared_both.get(path, filter=[f"or {name}{operator}{value}" for operator in "=<>"], limit=0)
        else:
            both = [shared_both.get(path, filter=f"{name}{sign}{value}", limit=0) for sign in ("=", "!=")]
            assert sum(page["subquery_count"] for page in both) == everything, name
            shared_both.get(path, filter=[f"or {name}{operator}{value}" for operator in operators(attribute)], limit=0)
        assert shared_both.get(path, sort_by=name, sort_order="desc")["subcount"] == everything
        if attribute.folded_column is None:
            shared_both.refusal(path, sort_by=name, sort_options="ignore_case")
        else:
            shared_both.get(path, sort_by=name, sort_options="ignore_case", limit=1)


@pytest.mark.parametrize("path", PATHS)
def test_rows(shared_both: Rest, path: str) -> None:
    class_ = PATHS[path]
    for name, attribute in class_.attributes.items():
        if not attribute.virtual:
            row = shared_both.get(path, expand="resources", attributes=name, limit=1)["resources"][0]
            assert set(row) == {"href", "id", name}
    for name, association in class_.associations.items():
        if name not in class_.subcollections:
            named = ",".join(f"{name}.{inner}" for inner in association.attributes())
            row = shared_both.get(path, expand="resources", attributes=f"id,{named}", limit=1)["resources"][0]
            assert row[name] is None or set(row[name]) == set(association.attributes())
            assert shared_both.get(path, expand="resources", attributes=f"id,{name}", limit=1)["subcount"] == 1
