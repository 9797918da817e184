"""Parses machines and snapshots from a stream of JSON, one at a time, in memory that does not grow with the file.

Accepts ManageIQ's collections (pages: objects with a list `resources`), single machines, and lists of either; any
number of them one after the other. The attributes are not interpreted here. A machine is yielded after its snapshots,
because some of its attributes may follow them in the file.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import ijson

from gateway.inventory.imports.dump_file import DumpFile
from gateway.inventory.imports.problems import ImportRefused

_CHUNK = 1 << 18
_NO_SNAPSHOT_LIST = "Attribute 'snapshots' must be a list and occur once."

Events = Iterator[tuple[str, Any]]


@dataclass(slots=True)
class ImportRecord:
    """A machine, or a snapshot of the machine that is yielded next. An odd one has a `problem`, the reason."""

    position: str
    attributes: dict[str, Any]
    collection: str | None = None  # of a machine: the name of its collection, `vms` or `instances`
    snapshot: int | None = None  # of a snapshot: its index in the machine's list; None for a machine
    listed: bool = False  # of a machine: whether it has a list of snapshots, which may be empty
    problem: str | None = None

    def valid_attributes(self) -> dict[str, Any]:
        """The attributes. Raises ValueError if the record has a problem."""
        if self.problem is not None:
            raise ValueError(self.problem)
        return self.attributes


@dataclass(slots=True)
class ImportedPage:
    """The end of a page. `total`: the number of machines on all pages of the collection; None when unknown."""

    collection: str | None  # as in the records of its machines
    total: int | None


def records(file: DumpFile) -> Iterator[ImportRecord | ImportedPage]:
    """Yields all snapshots, machines and pages. Raises ImportRefused when the file is not a ManageIQ collection."""
    events: Events = ijson.basic_parse(file, buf_size=_CHUNK, multiple_values=True)
    page = 0
    try:
        for event, _value in events:
            page += 1
            prefix = f"page {page}: " if page > 1 else ""
            if event == "start_map":
                yield from _object(events, prefix, prefix + "$", None)
            elif event == "start_array":
                yield from _list(events, prefix, None, pages=True)
            else:
                raise ImportRefused(prefix.removesuffix(": "), "Expected a JSON object with a ManageIQ collection.")
    except ijson.JSONError as error:
        raise ImportRefused("", _json_error(str(error))) from None


def _json_error(message: str) -> str:
    """A sentence from the parser's message of several lines, which is the repr of bytes when it is not UTF-8."""
    if "premature EOF" in message:
        return "The file ends before the JSON is complete."
    if "UTF8" in message:
        return "The file is not UTF-8."
    reason = message.removeprefix("b'").replace("\\n", "\n").splitlines()[0].partition("error: ")[2].rstrip(".")
    return f"The file is not valid JSON: {reason}."


def _list(events: Events, prefix: str, collection: str | None, *, pages: bool) -> Iterator[ImportRecord | ImportedPage]:
    """Reads a list of machines and, if `pages`, of pages."""
    for number, (event, _value) in enumerate(events):
        if event == "end_array":
            return
        position = f"{prefix}[{number}]"
        if event == "start_map":
            yield from _object(events, position + "." if pages else None, position, collection)
            continue
        if event == "start_array":
            _skip(events)
        yield ImportRecord(position, {}, collection, problem="A machine must be a JSON object.")


def _object(
    events: Events, page_prefix: str | None, position: str, collection: str | None
) -> Iterator[ImportRecord | ImportedPage]:
    """Reads a machine, or a page unless `page_prefix` is None, which begins the positions of the page's machines."""
    attributes: dict[str, Any] = {}
    listed = is_page = False
    key = ""
    for event, value in events:
        if event == "map_key":
            key = value
        elif event == "end_map":
            break
        elif event == "start_map":
            attributes[key] = _attributes(events)
        elif event != "start_array":
            attributes[key] = value
        elif key == "resources" and page_prefix is not None:
            is_page = True
            collection = _collection(attributes, page_prefix)
            yield from _list(events, page_prefix + key, collection, pages=False)
        elif key == "snapshots" and not listed:
            listed = True
            yield from _snapshots(events, position)
        else:
            _skip(events)
            attributes[key] = []
    if is_page:
        _collection(attributes, page_prefix or "")  # the name may follow the machines
        yield ImportedPage(collection, _total(attributes))
    else:
        _check_machine(attributes, position)
        problem = None if attributes.get("snapshots") is None else _NO_SNAPSHOT_LIST
        yield ImportRecord(position, attributes, collection=collection, listed=listed, problem=problem)


def _check_machine(attributes: dict[str, Any], position: str) -> None:
    """Raises ImportRefused for an object that is neither a machine nor a page, unless it is in a list of machines."""
    if position.endswith("$") and not attributes.keys() & {"id", "href"}:
        raise ImportRefused(
            position.removesuffix("$").removesuffix(": "),
            "The collection has no list 'resources'. Request it from ManageIQ with expand=resources,snapshots.",
        )


def _collection(attributes: dict[str, Any], prefix: str) -> str | None:
    name = attributes.get("name")
    if name is None or name in ("vms", "instances"):
        return name
    raise ImportRefused(prefix + "name", f"The collection must be 'vms' or 'instances', not {name!r}.")


def _total(attributes: dict[str, Any]) -> int | None:
    """The number of machines that match the filter of the request, or of all machines when it had none."""
    total = attributes.get("subquery_count", attributes.get("count"))
    return total if isinstance(total, int) else None


def _snapshots(events: Events, position: str) -> Iterator[ImportRecord]:
    for number, (event, _value) in enumerate(events):
        if event == "end_array":
            return
        if event == "start_map":
            yield ImportRecord(position, _attributes(events), snapshot=number)
            continue
        if event == "start_array":
            _skip(events)
        yield ImportRecord(position, {}, snapshot=number, problem="A snapshot must be a JSON object.")


def _attributes(events: Events) -> dict[str, Any]:
    """Reads an object and returns its attributes. Objects and lists among them are empty."""
    attributes: dict[str, Any] = {}
    key = ""
    for event, value in events:
        if event == "map_key":
            key = value
        elif event == "end_map":
            break
        elif event == "start_map":
            _skip(events)
            attributes[key] = {}
        elif event == "start_array":
            _skip(events)
            attributes[key] = []
        else:
            attributes[key] = value
    return attributes


def _skip(events: Events) -> None:
    """Skips the rest of the object or list whose start event has just been read."""
    depth = 1
    for event, _value in events:
        if event in ("start_map", "start_array"):
            depth += 1
        elif event in ("end_map", "end_array"):
            depth -= 1
            if depth == 0:
                return
