"""Parses machines and snapshots from a stream of JSON, one at a time, in memory that does not grow with the file.

Accepts ManageIQ's collections: one object with a list `resources`, several such objects one after the other, or a bare
list of machines. The attributes are not interpreted here. A machine is yielded after its snapshots, because some of
its attributes may follow them in the file.
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
    """The file cannot be imported; nothing was written. `position` is a place in the file, such as `resources[17]`."""

    def __init__(self, position: str, reason: str) -> None:
        super().__init__(f"{position}: {reason}" if position else reason)
        self.position = position
        self.reason = reason


@dataclass(slots=True)
class ImportRecord:
    """A machine, or a snapshot of the machine that is yielded next."""

    position: str
    attributes: dict[str, Any]
    collection: str | None = None  # of a machine: the name of its collection, `vms` or `instances`
    snapshot: int | None = None  # of a snapshot: its index in the machine's list; None for a machine
    listed: bool = False  # of a machine: whether it has a list of snapshots, which may be empty


def records(file: IO[bytes]) -> Iterator[ImportRecord]:
    """Yields all snapshots and machines. Raises ImportRefused when the file is not a ManageIQ collection."""
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


def _page(events: Events, prefix: str) -> Iterator[ImportRecord]:
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
                raise ImportRefused(prefix + "name", f"The collection must be 'vms' or 'instances', not {value!r}.")
    if not found:
        raise ImportRefused(
            prefix.removesuffix(": "),
            "The collection has no list 'resources'. Request it from ManageIQ with expand=resources,snapshots.",
        )


def _machines(events: Events, prefix: str, collection: str | None) -> Iterator[ImportRecord]:
    for number, (event, _value) in enumerate(events):
        if event == "end_array":
            return
        position = f"{prefix}[{number}]"
        if event != "start_map":
            raise ImportRefused(position, "A machine must be a JSON object.")
        yield from _machine(events, position, collection)


def _machine(events: Events, position: str, collection: str | None) -> Iterator[ImportRecord]:
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
                raise ImportRefused(f"{position}.snapshots", "Attribute 'snapshots' must be a list and occur once.")
        elif event == "start_map":
            attributes[key] = _object(events)
        elif event == "start_array":
            _skip(events)
        else:
            attributes[key] = value
    yield ImportRecord(position, attributes, collection=collection, listed=listed)


def _snapshots(events: Events, position: str) -> Iterator[ImportRecord]:
    for number, (event, _value) in enumerate(events):
        if event == "end_array":
            return
        if event != "start_map":
            raise ImportRefused(f"{position}.snapshots[{number}]", "A snapshot must be a JSON object.")
        yield ImportRecord(position, _object(events), snapshot=number)


def _object(events: Events) -> dict[str, Any]:
    """Reads an object and returns its attributes that are neither objects nor lists."""
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
    """Skips the rest of the object or list whose start event has just been read."""
    depth = 1
    for event, _value in events:
        if event in ("start_map", "start_array"):
            depth += 1
        elif event in ("end_map", "end_array"):
            depth -= 1
            if depth == 0:
                return
