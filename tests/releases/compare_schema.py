"""Compares two files of SDL: prints what differs besides descriptions, and how many elements have a description.

    python -m tests.releases.compare_schema OLD.graphql NEW.graphql

Exits with 1 if a name, type, default, directive or deprecation differs, or if an element lost its description.
"""

import json
import sys
from collections.abc import Iterator
from difflib import unified_diff
from pathlib import Path
from typing import Any

from graphql import DocumentNode, parse
from graphql.utilities import ast_to_dict


def structure(document: DocumentNode) -> list[str]:
    """The syntax tree of the document without descriptions, as lines of JSON."""
    return json.dumps(_without_descriptions(ast_to_dict(document)), indent=1).splitlines()


def _without_descriptions(node: Any) -> Any:
    if isinstance(node, dict):
        return {key: _without_descriptions(value) for key, value in node.items() if key != "description"}
    return [_without_descriptions(value) for value in node] if isinstance(node, list) else node


def descriptions(document: DocumentNode) -> dict[str, str]:
    """The description of each type, field, argument and enum value, by its path, such as `Vm.snapshots.first`."""
    found: dict[str, str] = {}

    def walk(node: Any, path: tuple[str, ...]) -> None:
        name = getattr(getattr(node, "name", None), "value", None)
        path = (*path, name) if name else path
        if (description := getattr(node, "description", None)) is not None:
            found[".".join(path)] = description.value
        for child in _children(node):
            walk(child, path)

    for definition in document.definitions:
        walk(definition, ())
    return found


def _children(node: Any) -> Iterator[Any]:
    for members in ("fields", "arguments", "values"):
        yield from getattr(node, members, None) or ()


def main(old_path: str, new_path: str) -> int:
    """Prints the comparison; the exit code."""
    old, new = (parse(Path(path).read_text()) for path in (old_path, new_path))
    difference = list(unified_diff(structure(old), structure(new), old_path, new_path, lineterm="", n=1))
    before, after = descriptions(old), descriptions(new)
    lost = sorted(before.keys() - after.keys())
    changed = [path for path in before.keys() & after.keys() if before[path] != after[path]]
    print("\n".join(difference) or "Structure: no difference.")
    print(f"Descriptions: {len(before)} before, {len(after)} after, {len(changed)} of them changed, {len(lost)} lost.")
    for path in lost:
        print(f"  lost: {path}")
    return int(bool(difference or lost))


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
