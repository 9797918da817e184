"""Parses `sort_by`, `sort_order` and `sort_options` into an order of `reads.sorts`."""

from typing import Literal

from gateway.reads.entities import ENTITIES
from gateway.reads.sorts import ID, Kind, SortField, SortKey, SortOrder, with_id_key
from gateway.rest.attributes import Attribute
from gateway.rest.classes import ResourceClass
from gateway.rest.errors import bad_request

_KINDS: dict[str, Kind] = {
    "text": "text",
    "timestamp": "timestamp",
    "integer": "number",
    "boolean": "number",
    "id": "number",
}
_DESCENDING = frozenset({"desc", "descending"})
IGNORE_CASE: Literal["ignore_case"] = "ignore_case"


def parse_order(class_: ResourceClass, sort_by: str, sort_order: str, sort_options: str) -> SortOrder:
    """The order of a request, with the id as its last key. Without `sort_by` the class's default. Raises RestError.

    A key without a direction is ascending. Nulls come last ascending and first descending, as in PostgreSQL.
    """
    names = list(dict.fromkeys(name for name in sort_by.split(",") if name))
    orders = [word.strip().lower() for word in sort_order.split(",")]
    ignore_case = IGNORE_CASE in [word.strip().lower() for word in sort_options.split(",")]
    keys = []
    for position, name in enumerate(names):
        field = _field(class_, name, ignore_case)
        descending = position < len(orders) and orders[position] in _DESCENDING
        keys.append(SortKey(field, descending, nulls_first=descending))
    return with_id_key(keys or ENTITIES[class_.noun].default_sort)


def _field(class_: ResourceClass, name: str, ignore_case: bool) -> SortField:
    attribute = class_.attributes.get(name)
    if attribute is None:
        raise bad_request(f"{name} is not a valid attribute for {class_.name}")
    if attribute.kind == "opaque":
        raise bad_request(f"{class_.name} cannot be sorted by {name}")
    if name == "id" and not ignore_case:
        return ID
    field = SortField(attribute.column, _KINDS[attribute.kind], attribute.nullable)
    return _folded_field(class_, name, attribute, field) if ignore_case else field


def _folded_field(class_: ResourceClass, name: str, attribute: Attribute, field: SortField) -> SortField:
    if attribute.folded_column is None:
        raise bad_request(f"{class_.name} cannot be sorted by {name} with sort_options={IGNORE_CASE}.")
    return field._replace(column=attribute.folded_column)
