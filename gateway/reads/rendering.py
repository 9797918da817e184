"""From rows to JSON-ready values: Python source, generated once per selection.

A renderer is called with a row, the results of the links it needs (`links`) and the context of the request, and
builds the dict that the client asked for. Values are ready for orjson; instants may be datetimes.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

from gateway.reads.dialects import Dialect

Renderer = Callable[[Any, Sequence[Any], Any], Any]


class Record(dict[str, Any]):
    """An object that knows its GraphQL type, for graphql-core, which must be told at interfaces."""

    __slots__ = ("type_name",)

    def __init__(self, type_name: str, values: dict[str, Any]) -> None:
        super().__init__(values)
        self.type_name = type_name


@dataclass(slots=True)
class Code:
    """Source text under construction, and the objects it refers to by name."""

    dialect: Dialect
    names: dict[str, Any] = field(default_factory=dict)

    def name(self, value: Any) -> str:
        """A name for `value` inside the source."""
        name = f"v{len(self.names)}"
        self.names[name] = value
        return name

    def function(self, parameters: str, expression: str) -> Any:
        """The function of `parameters` that returns `expression`. All text in it is ours or a GraphQL name."""
        scope = dict(self.names)
        exec(f"def render({parameters}):\n    return {expression}", scope)  # noqa: S102
        return scope["render"]

    def leaf(self, value: str, type_name: str, *, required: bool) -> str:
        """The expression that makes the JSON-ready form of the expression `value`, which is not null if `required`."""
        if type_name == "BigInt":
            template: str | None = "f'{{{0}}}'"
        else:
            template = self.dialect.renderers.get({"DateTime": "moment", "Boolean": "boolean"}.get(type_name, ""))
        if template is None:
            return value
        return template.format(value) if required else f"(None if {value} is None else {template.format(value)})"


def literal(items: Sequence[tuple[str, str]]) -> str:
    """A dict display of response keys and expressions."""
    return "{" + ", ".join(f"{key!r}: {expression}" for key, expression in items) + "}"
