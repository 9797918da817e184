"""The body of a POST: its action and its items."""

import re
from collections.abc import Mapping, Sequence
from typing import Any

import orjson

from gateway.errors import ErrorCode
from gateway.operations.commands.base import MAX_TARGETS
from gateway.rest.classes import SNAPSHOTS, ResourceClass
from gateway.rest.errors import RestError, bad_request

_HREF = re.compile(r".*/(vms|instances)/(\d{1,19})/snapshots/(\d{1,19})", re.DOTALL)
_BARE_HREF = re.compile(r".*/snapshots/(\d{1,19})", re.DOTALL)
_RESOURCE_HREF = re.compile(r".*/([a-z_]+)/(\d{1,19})", re.DOTALL)
_DIGITS = re.compile(r"\d{1,19}")
_MAX_NUMBER = 2**63 - 1
_LONGEST_SHOWN = 100  # characters of a name that an error repeats
_MAX_SHOWN = 500  # characters of a value in a message

Item = Mapping[str, Any]


def parse_body(body: bytes) -> dict[str, Any]:
    """The members of a JSON body. An empty body has none, nor has `null`. Raises RestError."""
    if body.strip() in (b"", b"null"):
        return {}
    try:
        members = orjson.loads(body)
    except orjson.JSONDecodeError as error:
        raise bad_request(f"The body is not JSON: {error}.", "JSON::ParserError") from None
    if not isinstance(members, dict):
        raise bad_request("The body must be a JSON object.")
    return members


def action_of(members: Mapping[str, Any]) -> str:
    """The action of a body. Default `create`, also for null and false, as in ManageIQ.

    Raises RestError for a list or an object.
    """
    action = members.get("action", "create")
    if isinstance(action, list | dict):  # not shown, because its text may be long, or nested too deeply
        raise bad_request("The action must be text.")
    return shown(action or "create")


def shown(value: Any) -> str:
    """A value of a JSON body, as messages show it: null as ManageIQ does, and neither lists nor objects."""
    match value:
        case str():
            return value[:_MAX_SHOWN]
        case None:
            return "nil"
        case list():
            return "[…]"  # not shown in full: its text may be long, or nested too deeply
        case dict():
            return "{…}"
        case _:
            return orjson.dumps(value).decode()


def unsupported_action(action: str, collection: str, *, of: str) -> RestError:
    """A 400. `of` is `collection` or `resource`."""
    return bad_request(f"Unsupported Action {action} for the {collection} {of} specified")


def items(
    members: Mapping[str, Any], action: str, collection: str = SNAPSHOTS.collection, limit: int = MAX_TARGETS
) -> list[Item]:
    """The items of `resources`, or the item in `resource`, or the body itself.

    Raises RestError if there are none, or more than `limit`.
    """
    if "resources" in members:
        check_members(members, "resources")
        found = members["resources"]
    elif "resource" in members:
        check_members(members, "resource")
        found = [members["resource"]] if members["resource"] else []
    else:
        plain = {name: value for name, value in members.items() if name != "action"}
        found = [plain] if plain else []
    if not isinstance(found, list) or not found or not all(isinstance(item, dict) for item in found):
        raise bad_request(f"No {collection} resources were specified for the {action} action")
    if len(found) > limit:
        raise bad_request(f"A request may name at most {limit} {collection}.")
    return found


def check_members(members: Mapping[str, Any], items: str) -> None:
    """Raises RestError for a member besides `action` and the one that has the items, such as a filter."""
    if unknown := next((name for name in members if name not in ("action", items)), None):
        raise bad_request(f"Unknown member '{unknown[:_LONGEST_SHOWN]}' beside {items} in the body.")


def named_resource(item: Item, class_: ResourceClass) -> int:
    """The number of the resource that an item of a bulk action names by its href or id. Raises RestError."""
    href = item.get("href")
    if isinstance(href, str) and (found := _RESOURCE_HREF.fullmatch(href)) and found[1] == class_.collection:
        return _number(found[2], class_.name)
    if "id" not in item:
        given = ", ".join(f"{name}={shown(value)}" for name, value in item.items())
        raise RestError(
            404, f"Invalid {class_.collection} resource specified - {given[:_MAX_SHOWN]}", ErrorCode.NOT_FOUND
        )
    return _number(item["id"], class_.name)


def check_new(resources: Sequence[Item]) -> None:
    """Raises RestError if an item of a create has an id or href."""
    if any("id" in item or "href" in item for item in resources):
        raise bad_request("Resource id or href should not be specified for creating a new snapshots")


def named_snapshot(item: Item, collection: str, machine: int) -> int | None:
    """The number of the snapshot that an item of a bulk action names. None if its href is below another machine.

    Raises RestError for an item without a valid id or href.
    """
    href = item.get("href")
    if isinstance(href, str):
        if found := _HREF.fullmatch(href):
            # An instance is also a vm.
            return _number(found[3]) if found[1] in (collection, "vms") and int(found[2]) == machine else None
        if bare := _BARE_HREF.fullmatch(href):
            return _number(bare[1])
    return _number(item.get("id", href))


def item_id(item: Item) -> str:
    """The id of an item, as messages show it."""
    given = str(item.get("href") or item.get("id"))
    return given.rpartition("/")[2]


def _number(given: Any, class_name: str = SNAPSHOTS.name) -> int:
    text = str(given) if isinstance(given, int) and not isinstance(given, bool) else given
    if not isinstance(text, str) or not _DIGITS.fullmatch(text) or int(text) > _MAX_NUMBER:
        raise bad_request(f"Invalid {class_name} id {shown(given)} specified")
    return int(text)
