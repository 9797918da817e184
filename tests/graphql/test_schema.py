"""The schema fulfills the contract, and its fields can be queried with all features of GraphQL."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from graphql import (
    GraphQLEnumType,
    GraphQLInputObjectType,
    GraphQLInterfaceType,
    GraphQLNonNull,
    GraphQLObjectType,
    GraphQLScalarType,
    GraphQLSchema,
    build_client_schema,
    build_schema,
    get_introspection_query,
    is_specified_scalar_type,
    value_from_ast_untyped,
)

from tests.serving import Served


@pytest.fixture(scope="module")
def contract() -> GraphQLSchema:
    return build_schema((Path(__file__).parent / "contract.graphql").read_text())


@pytest.fixture(scope="module")
def schema(gateway: Served) -> GraphQLSchema:
    """The schema as a client receives it by introspection."""
    query = get_introspection_query(specified_by_url=True, input_value_deprecation=True)
    return build_client_schema(gateway.ask(query))  # type: ignore[arg-type]


# ---- the contract


def test_schema_has_every_type_of_the_contract(schema: GraphQLSchema, contract: GraphQLSchema) -> None:
    wanted = [name for name, type_ in contract.type_map.items() if not is_specified_scalar_type(type_)]
    assert [name for name in wanted if name not in schema.type_map] == []
    assert [name for name in wanted if type(schema.type_map[name]) is not type(contract.type_map[name])] == []
    assert [schema.query_type, schema.mutation_type, schema.subscription_type] == [
        schema.type_map[name] for name in ("Query", "Mutation", "Subscription")
    ]


def test_schema_has_every_member_of_the_contract(schema: GraphQLSchema, contract: GraphQLSchema) -> None:
    """Compares fields and arguments with types, nullability and defaults, interfaces, and the order of enum values."""
    missing = []
    for name, wanted in contract.type_map.items():
        if not name.startswith("__") and not is_specified_scalar_type(wanted):
            found = schema.type_map[name]
            have = set(members(found))
            missing += [f"{name}{member}" for member in members(wanted) if member not in have]
            if isinstance(wanted, GraphQLEnumType) and isinstance(found, GraphQLEnumType):
                assert [value for value in found.values if value in wanted.values] == list(wanted.values)
    assert missing == []


def test_schema_requires_no_more_input_than_the_contract(schema: GraphQLSchema, contract: GraphQLSchema) -> None:
    more = []
    for name, wanted in contract.type_map.items():
        found = schema.type_map[name]
        if isinstance(wanted, GraphQLInputObjectType) and isinstance(found, GraphQLInputObjectType):
            more += [f"{name}.{field}" for field in required(found.fields) - required(wanted.fields)]
        if isinstance(wanted, GraphQLObjectType | GraphQLInterfaceType):
            assert isinstance(found, GraphQLObjectType | GraphQLInterfaceType)
            for field, member in wanted.fields.items():
                arguments = required(found.fields[field].args) - required(member.args)
                more += [f"{name}.{field}({argument})" for argument in arguments]
    assert more == []


def required(members: Any) -> set[str]:
    return {
        name for name, member in members.items() if isinstance(member.type, GraphQLNonNull) and default(member) is None
    }


def default(member: Any) -> Any:
    """The default value in the form of a client's input; None if there is none."""
    if member.default is None:
        return None
    if member.default.literal is not None:
        return value_from_ast_untyped(member.default.literal)
    return member.default.value


def members(type_: Any) -> Iterator[str]:
    match type_:
        case GraphQLObjectType() | GraphQLInterfaceType():
            yield from (f" implements {interface.name}" for interface in type_.interfaces)
            for name, field in type_.fields.items():
                yield f".{name}: {field.type}"
                for argument, member in field.args.items():
                    yield f".{name}({argument}: {member.type} = {default(member)})"
        case GraphQLInputObjectType():
            yield from (f".{name}: {field.type} = {default(field)}" for name, field in type_.fields.items())
        case GraphQLEnumType():
            yield from (f".{name}" for name in type_.values)
        case GraphQLScalarType():
            yield f" specified by {type_.specified_by_url}"


def test_every_element_has_a_description(schema: GraphQLSchema) -> None:
    undescribed = []
    for name, type_ in schema.type_map.items():
        if name.startswith("__"):
            continue
        undescribed += [name] if not type_.description else []
        parts: Any = getattr(type_, "fields", None) or getattr(type_, "values", None) or {}
        for part, member in parts.items():
            undescribed += [f"{name}.{part}"] if not member.description else []
            arguments: Any = getattr(member, "args", None) or {}
            undescribed += [f"{name}.{part}({key})" for key, argument in arguments.items() if not argument.description]
    assert undescribed == []


# ---- queries


def test_nodes_of_each_type_can_be_fetched_by_id(gateway: Served) -> None:
    listed = gateway.ask(
        "{ vms(first: 2) { nodes { id __typename name } } instances(first: 2) { nodes { id __typename name } }"
        " snapshots(first: 2) { nodes { id __typename name } }"
        " operations(first: 2) { nodes { id __typename snapshotName } } }"
    )
    nodes = [node for connection in listed.values() for node in connection["nodes"]]
    assert [node["__typename"] for node in nodes] == [
        *("Vm", "Vm", "Instance", "Instance", "Snapshot", "Snapshot", "Operation", "Operation")
    ]
    again = (
        "fragment N on Node { id __typename ... on Machine { name } ... on Snapshot { name }"
        " ... on Operation { snapshotName } }"
    )
    query = "query ($id: ID!, $ids: [ID!]!) { node(id: $id) { ...N } nodes(ids: $ids) { ...N } } " + again
    for node in nodes:
        ids = [node["id"], "vm-999999", node["id"]]
        assert gateway.ask(query, id=node["id"], ids=ids) == {"node": node, "nodes": [node, None, node]}
    everything = gateway.ask(query, id="vm-11", ids=[node["id"] for node in reversed(nodes)])
    assert everything["nodes"] == nodes[::-1]


def test_list_of_machines_of_both_kinds(gateway: Served) -> None:
    query = """
    query ($ids: [ID!]) { machines(filter: {id: {in: $ids}}, sort: [{field: ID}]) { nodes { ...M kind: __typename } } }
    fragment M on Machine { ...N name
        ... on Vm { host place: host } ... on Instance { flavor place: availabilityZone } }
    fragment N on Node { id }
    """
    assert gateway.ask(query, ids=["vm-11", "instance-201", "vm-201"])["machines"]["nodes"] == [
        {"id": "vm-11", "name": "web-01", "host": "esx-01", "place": "esx-01", "kind": "Vm"},
        {"id": "instance-201", "name": "api-01", "flavor": "m1.medium", "place": "zone-a", "kind": "Instance"},
    ]


def test_fields_are_returned_in_the_order_of_the_selection(gateway: Served) -> None:
    query = """{ vm(id: "vm-11") { z: name ...A a: name id ... { name z } currentSnapshot { id } } }
    fragment A on Vm { host z: name currentSnapshot { name } }""".replace("... { name z }", "... { name z: name }")
    found = gateway.ask(query)["vm"]
    assert list(found.items()) == [
        ("z", "web-01"),
        ("host", "esx-01"),
        ("currentSnapshot", {"name": "test-before-upgrade", "id": "snapshot-4"}),
        ("a", "web-01"),
        ("id", "vm-11"),
        ("name", "web-01"),
    ]


def test_aliases_of_one_field_with_different_arguments(gateway: Served) -> None:
    query = """query ($size: Int = 1) { vm(id: "vm-11") {
        newest: snapshots(first: $size) { ...S }
        oldest: snapshots(last: $size) { ...S }
        byName: snapshots(sort: [{field: NAME, direction: DESC}], first: 2) { ...S }
        none: snapshots(filter: {or: []}) { ...S }
        withMemory: snapshots(filter: {memory: {eq: true}}) { ...S } } }
    fragment S on SnapshotConnection { totalCount nodes { id } }"""
    found = gateway.ask(query)["vm"]
    assert {name: (page["totalCount"], [node["id"][9:] for node in page["nodes"]]) for name, page in found.items()} == {
        "newest": (3, ["5"]),
        "oldest": (3, ["3"]),
        "byName": (3, ["5", "4"]),
        "none": (0, []),
        "withMemory": (1, ["4"]),
    }
    assert gateway.ask(query, size=2)["vm"]["newest"]["nodes"] == [{"id": "snapshot-5"}, {"id": "snapshot-4"}]


@pytest.mark.parametrize("yes", [True, False])
def test_skip_and_include(gateway: Served, yes: bool) -> None:
    query = """query ($yes: Boolean!, $no: Boolean = false) {
        a: vm(id: "vm-11") @include(if: $yes) { id }
        b: vm(id: "vm-11") @skip(if: $yes) { id name @include(if: $no) }
        vm(id: "vm-11") { id ...F @include(if: $yes) ... on Vm @skip(if: $yes) { host }
            snapshots(first: 1) @include(if: $yes) { nodes { id } totalCount @skip(if: $yes) } } }
    fragment F on Machine { name powerState @skip(if: $yes) }"""
    machine = {"id": "vm-11"}
    expected: dict[str, Any] = {"b": machine, "vm": {**machine, "host": "esx-01"}}
    if yes:
        more = {"name": "web-01", "snapshots": {"nodes": [{"id": "snapshot-5"}]}}
        expected = {"a": machine, "vm": {**machine, **more}}
    for _ in range(2):  # the second time from the cache
        assert gateway.ask(query, yes=yes) == expected
    assert list(gateway.ask(query, yes=not yes)) != list(expected)


def test_connections_inside_relations(gateway: Served) -> None:
    query = """{ snapshot(id: "snapshot-5") { parent { children(sort: [{field: ID}], first: 1) {
        totalCount pageInfo { hasNextPage } nodes { id parent { machine { id snapshots(last: 1) {
            totalCount pageInfo { hasPreviousPage hasNextPage } edges { node {
                id children { totalCount nodes { id } } } }
        } currentSnapshot { parent { id } } } } } } } } }"""
    assert gateway.ask(query)["snapshot"]["parent"]["children"] == {
        "totalCount": 2,
        "pageInfo": {"hasNextPage": True},
        "nodes": [
            {
                "id": "snapshot-4",
                "parent": {
                    "machine": {
                        "id": "vm-11",
                        "snapshots": {
                            "totalCount": 3,
                            "pageInfo": {"hasPreviousPage": True, "hasNextPage": False},
                            "edges": [
                                {
                                    "node": {
                                        "id": "snapshot-3",
                                        "children": {
                                            "totalCount": 2,
                                            "nodes": [{"id": "snapshot-5"}, {"id": "snapshot-4"}],
                                        },
                                    }
                                }
                            ],
                        },
                        "currentSnapshot": {"parent": {"id": "snapshot-3"}},
                    }
                },
            }
        ],
    }


def test_typename_of_every_object(gateway: Served) -> None:
    query = """{ __typename t: __typename
        viewer { __typename } providers { __typename }
        node(id: "instance-201") { __typename } nodes(ids: ["vm-11", "operation-1"]) { __typename }
        vm(id: "vm-11") { __typename capabilities { __typename } currentSnapshot { __typename machine { __typename } }
            snapshots(first: 1) { __typename pageInfo { __typename } edges { __typename node { __typename
                capabilities { __typename } parent { __typename } } } } }
        operations(last: 1) { __typename nodes { __typename
            machine { __typename } snapshot { __typename } error { __typename } } }
    }"""
    capability, snapshot = {"__typename": "Capability"}, {"__typename": "Snapshot"}
    found = gateway.ask(query)
    assert found["operations"]["nodes"][0].pop("machine")["__typename"] in ("Vm", "Instance")
    assert found == {
        "__typename": "Query",
        "t": "Query",
        "viewer": {"__typename": "Viewer"},
        "providers": [{"__typename": "Provider"}] * 2,
        "node": {"__typename": "Instance"},
        "nodes": [{"__typename": "Vm"}, {"__typename": "Operation"}],
        "vm": {
            "__typename": "Vm",
            "capabilities": [capability] * 6,
            "currentSnapshot": {**snapshot, "machine": {"__typename": "Vm"}},
            "snapshots": {
                "__typename": "SnapshotConnection",
                "pageInfo": {"__typename": "PageInfo"},
                "edges": [
                    {
                        "__typename": "SnapshotEdge",
                        "node": {**snapshot, "capabilities": [capability] * 3, "parent": snapshot},
                    }
                ],
            },
        },
        "operations": {
            "__typename": "OperationConnection",
            "nodes": [{"__typename": "Operation", "snapshot": snapshot, "error": None}],
        },
    }


def test_typename_in_a_mutation_payload(gateway: Served) -> None:
    query = """mutation { __typename deleteSnapshots(input: {ids: ["x"], dryRun: true}) { __typename
        results { __typename errors { __typename } } } }"""
    assert gateway.ask(query) == {
        "__typename": "Mutation",
        "deleteSnapshots": {
            "__typename": "DeleteSnapshotsPayload",
            "results": [{"__typename": "DeleteSnapshotResult", "errors": [{"__typename": "UserError"}]}],
        },
    }


def test_introspection_and_data_in_one_query(gateway: Served) -> None:
    query = '{ __type(name: "Vm") { name kind } vm(id: "vm-11") { name } __schema { queryType { name } } }'
    found = gateway.ask(query)
    assert list(found.items()) == [
        ("__type", {"name": "Vm", "kind": "OBJECT"}),
        ("vm", {"name": "web-01"}),
        ("__schema", {"queryType": {"name": "Query"}}),
    ]


def test_operation_is_selected_by_name(gateway: Served) -> None:
    query = 'query A { vm(id: "vm-11") { id } } query B($id: ID = "vm-12") { vm(id: $id) { id } }'
    for name, id_ in (("A", "vm-11"), ("B", "vm-12")):
        assert gateway.post(query, operationName=name) == {"data": {"vm": {"id": id_}}}
    (error,) = gateway.post(query, operationName="C")["errors"]
    assert error["message"] == "The document has no operation named 'C'."
