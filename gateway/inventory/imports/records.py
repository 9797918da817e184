"""Machines and snapshots from a stream of JSON, one at a time, whatever their order and however large the file is.

Knows the shape of ManageIQ's collections (one object with `resources`, several of them one after the other, or a bare
list of machines) and nothing of what the attributes mean. A machine comes after its snapshots: its attributes may.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import IO, Any

import ijson

from gateway.errors import StartupError

_CHUNK = 1 << 18
_BOM = b"\xef\xbb\xbf"

Events = Iterator[tuple[str, Any]]


class ImportRefused(StartupError):
    """The file cannot be imported, and nothing of it was. `position` is where in the file, such as `resources[17]`."""

    def __init__(self, position: str, reason: str) -> None:
        super().__init__(f"{position}: {reason}" if position else reason)
        self.position = position
        self.reason = reason


@dataclass(slots=True)
class Record:
    """A machine, or a snapshot of the machine that comes next."""

    position: str
    attributes: dict[str, Any]
    collection: str | None = None  # of a machine: the name of what it was listed in
    snapshot: int | None = None  # of a snapshot: its place in the machine's list
    listed: bool = False  # of a machine: it came with a list of snapshots, be it empty


def records(file: IO[bytes]) -> Iterator[Record]:
    """Every snapshot, followed by its machine. Raises ImportRefused for what is not such a file."""
    if file.read(len(_BOM)) != _BOM:
        file.seek(0)
    events: Events = ijson.basic_parse(file, buf_size=_CHUNK, use_float=True, multiple_values=True)
    page = 0
    try:
        for event, _value in events:
            page += 1
            prefix = f"page {page}: " if page > 1 else ""
            if event == "start_map":
                yield from _page(events, prefix)
            elif event == "start_array":
                yield from _machines(events, prefix, None)
            else:
                raise ImportRefused(prefix.removesuffix(": "), "is not a ManageIQ collection: expected an object")
    except ijson.JSONError as error:
        raise ImportRefused("", _not_json(str(error))) from None


def _not_json(message: str) -> str:
    """One line from the parser's several, which come as the text of a bytes object when they are not UTF-8."""
    if "premature EOF" in message:
        return "ends too early: the JSON is not whole"
    if "UTF8" in message:
        return "is not UTF-8"
    reason = message.removeprefix("b'").replace("\\n", "\n").splitlines()[0].partition("error: ")[2].rstrip(".")
    return f"is not JSON: {reason}"


def _page(events: Events, prefix: str) -> Iterator[Record]:
    collection: str | None = None
    found = False
    key = ""
    for event, value in events:
        if event == "map_key":
            key = value
        elif event == "end_map":
            break
        elif key == "resources" and event == "start_array":
            found = True
            yield from _machines(events, prefix + "resources", collection)
        elif event in ("start_map", "start_array"):
            _skip(events)
        elif key == "name":
            collection = value
            if value not in ("vms", "instances"):
                raise ImportRefused(prefix + "name", f"{value!r} is not a collection of machines: vms or instances")
    if not found:
        raise ImportRefused(
            prefix.removesuffix(": "), 'has no list "resources": ask ManageIQ with expand=resources,snapshots'
        )


def _machines(events: Events, prefix: str, collection: str | None) -> Iterator[Record]:
    for number, (event, _value) in enumerate(events):
        if event == "end_array":
            return
        position = f"{prefix}[{number}]"
        if event != "start_map":
            raise ImportRefused(position, "a machine must be an object")
        yield from _machine(events, position, collection)


def _machine(events: Events, position: str, collection: str | None) -> Iterator[Record]:
    attributes: dict[str, Any] = {}
    listed = False
    key = ""
    for event, value in events:
        if event == "map_key":
            key = value
        elif event == "end_map":
            break
        elif key == "snapshots":
            if event == "start_array" and not listed:
                listed = True
                yield from _snapshots(events, position)
            elif event != "null":
                raise ImportRefused(f"{position}.snapshots", "must be one list")
        elif event == "start_map":
            attributes[key] = _object(events)
        elif event == "start_array":
            _skip(events)
        else:
            attributes[key] = value
    yield Record(position, attributes, collection=collection, listed=listed)


def _snapshots(events: Events, position: str) -> Iterator[Record]:
    for number, (event, _value) in enumerate(events):
        if event == "end_array":
            return
        if event != "start_map":
            raise ImportRefused(f"{position}.snapshots[{number}]", "a snapshot must be an object")
        yield Record(position, _object(events), snapshot=number)


def _object(events: Events) -> dict[str, Any]:
    """The attributes that are neither objects nor lists."""
    attributes: dict[str, Any] = {}
    key = ""
    for event, value in events:
        if event == "map_key":
            key = value
        elif event == "end_map":
            break
        elif event in ("start_map", "start_array"):
            _skip(events)
        else:
            attributes[key] = value
    return attributes


def _skip(events: Events) -> None:
    """Passes over the rest of the object or list that has just begun."""
    depth = 1
    for event, _value in events:
        if event in ("start_map", "start_array"):
            depth += 1
        elif event in ("end_map", "end_array"):
            depth -= 1
            if depth == 0:
                return
