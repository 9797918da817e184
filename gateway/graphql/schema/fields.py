"""How a field of the schema says where its value comes from (see `reads/sources.py`), and its arguments."""

from typing import Any

import strawberry
from strawberry.annotation import StrawberryAnnotation
from strawberry.types.arguments import StrawberryArgument

from gateway.reads.pages import DEFAULT_SIZE, LARGEST
from gateway.reads.sources import Column, Many, Source

SOURCE = "source"  # in the metadata of a field

_PAGE_ARGUMENTS = {
    "first": (int, f"The first so many of the list, 0 to {LARGEST}. Without `first` and `last`: {DEFAULT_SIZE}."),
    "after": (str, "Only what comes after this cursor, which must be of the same sort."),
    "last": (int, f"The last so many of the list, 0 to {LARGEST}. Does not go with `first`."),
    "before": (str, "Only what comes before this cursor, which must be of the same sort."),
    "offset": (int, "Leave out so many at the front, for screens with page numbers. Goes with `first` only."),
}


def sourced(source: Source, description: str, **arguments: tuple[Any, str]) -> Any:
    """A field with this source. `arguments` are types and descriptions by name."""
    field = strawberry.field(description=description, metadata={SOURCE: source})
    field.arguments = [
        StrawberryArgument(
            python_name=name, graphql_name=None, type_annotation=StrawberryAnnotation(type_), description=text
        )
        for name, (type_, text) in arguments.items()
    ]
    return field


def column(name: str, description: str) -> Any:
    """A field that shows a column."""
    return sourced(Column(name), description)


def connection(source: Many, filter_type: Any, sort_type: Any, description: str) -> Any:
    """A paged, filtered and sorted list."""
    default = "Without one: by name." if source.noun == "machine" else "Without one: the newest first."
    return sourced(
        source,
        description,
        filter=(filter_type | None, "Only what matches. Without one, or with `{}`: everything."),
        sort=(list[sort_type] | None, f"The keys, the first one first; the id comes last by itself. {default}"),
        **{name: (type_ | None, text) for name, (type_, text) in _PAGE_ARGUMENTS.items()},
    )
