"""Helpers that declare schema fields with the source of their value (see `reads/sources.py`) and their arguments."""

from typing import Any

import strawberry
from strawberry.annotation import StrawberryAnnotation
from strawberry.types.arguments import StrawberryArgument

from gateway.reads.pages import DEFAULT_PAGE_SIZE, MAX_PAGE_SIZE
from gateway.reads.sources import Column, Source, ToMany

SOURCE = "source"  # key in the metadata of a field

_PAGE_ARGUMENTS = {
    "first": (
        int,
        (
            f"Return at most N items from the start of the list (0 to {MAX_PAGE_SIZE})."
            f" Default {DEFAULT_PAGE_SIZE} without `last`."
        ),
    ),
    "after": (str, "Return only items after this cursor. The cursor must come from a list with the same `sort`."),
    "last": (
        int,
        f"Return at most N items from the end of the list (0 to {MAX_PAGE_SIZE}). Cannot be combined with `first`.",
    ),
    "before": (str, "Return only items before this cursor. The cursor must come from a list with the same `sort`."),
    "offset": (
        int,
        "Skip the first N items, for navigation by page number. Cannot be combined with `after`, `before` or `last`.",
    ),
}


def sourced(source: Source, description: str, **arguments: tuple[Any, str]) -> Any:
    """A field whose value comes from `source`. `arguments` maps argument names to types and descriptions."""
    field = strawberry.field(description=description, metadata={SOURCE: source})
    field.arguments = [
        StrawberryArgument(
            python_name=name, graphql_name=None, type_annotation=StrawberryAnnotation(type_), description=text
        )
        for name, (type_, text) in arguments.items()
    ]
    return field


def column(name: str, description: str) -> Any:
    """A field whose value is a column."""
    return sourced(Column(name), description)


def connection(source: ToMany, filter_type: Any, sort_type: Any, description: str) -> Any:
    """A connection field with the arguments `filter`, `sort` and those for pagination."""
    default = "`name` ascending" if source.noun == "machine" else "newest first"
    return sourced(
        source,
        description,
        filter=(filter_type | None, "Return only items that match. All items match if it is omitted or `{}`."),
        sort=(
            list[sort_type] | None,
            f"Sort keys in order of precedence. The id is always the last key. Default: {default}.",
        ),
        **{name: (type_ | None, text) for name, (type_, text) in _PAGE_ARGUMENTS.items()},
    )
