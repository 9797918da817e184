"""The routes: which request is which read or write, in ManageIQ's order of checks.

What is asked for comes first, then whether the caller may, then what they accept, then the rest of the request.
"""

import re

from gateway.models import MachineKind, SnapshotAction
from gateway.operations.audit_refusals import RefusalLog
from gateway.rest import bodies, responses
from gateway.rest.audit import record_fault
from gateway.rest.classes import COLLECTIONS, SNAPSHOTS, Class
from gateway.rest.entry import entry_point
from gateway.rest.errors import RestError, bad_request, forbidden, no_route, not_found
from gateway.rest.filter_cache import FilterCache
from gateway.rest.options import class_options, snapshot_options
from gateway.rest.paging import Listing, envelope
from gateway.rest.query import check_scope, parse_shape, parse_window
from gateway.rest.reading import Reader, Wanted
from gateway.rest.requests import Request
from gateway.rest.responses import Answer
from gateway.rest.sorting import parse_order
from gateway.rest.writing import Writer

_DIGITS = re.compile(r"\d+")
_LARGEST = 2**63 - 1
_ACTIONS = {"create": SnapshotAction.CREATE, "delete": SnapshotAction.DELETE, "revert": SnapshotAction.REVERT}


class Routes:
    """Everything below `/api` but `/api/auth`. Raises RestError and GatewayError."""

    def __init__(self, reader: Reader, writer: Writer, refusals: RefusalLog) -> None:
        self._reader = reader
        self._writer = writer
        self._refusals = refusals
        self._filters = FilterCache()

    async def serve(self, request: Request) -> Answer:
        try:
            return await self._serve(request)
        except RestError as fault:
            await record_fault(self._refusals, request, fault)
            raise

    async def _serve(self, request: Request) -> Answer:
        if not request.segments:
            if request.method != "GET":
                raise no_route(request.method, request.path)
            _check_accept(request)
            return responses.json(entry_point(request.asker, request.root))
        class_ = COLLECTIONS.get(request.segments[0])
        if class_ is None:
            raise bad_request(f"Unsupported Collection {request.segments[0]} specified")
        match request.segments[1:]:
            case ():
                return await self._collection(request, class_)
            case (id,):
                return await self._resource(request, class_, id)
            case (id, name, *rest) if len(rest) < 2:
                if name not in class_.subcollections:
                    raise bad_request(f"Unsupported Sub-Collection {name} specified")
                if rest:
                    return await self._snapshot(request, class_, _number(class_, id), rest[0])
                return await self._snapshots(request, class_, _number(class_, id))
            case _:
                raise no_route(request.method, request.path)

    def _wanted(self, request: Request, class_: Class) -> Wanted:
        query = request.query
        window = parse_window(query)
        return Wanted(
            shape=parse_shape(class_, query, expanded=False),
            window=window,
            order=parse_order(class_, query.get("sort_by"), query.get("sort_order"), query.get("sort_options")),
            filter=self._filters.parse(class_, query.filters()),
            hidden="resources" in query.words("hide"),
        )

    # ---- collections

    async def _collection(self, request: Request, class_: Class) -> Answer:
        match request.method:
            case "GET":
                _check_read(request, class_)
                wanted = self._wanted(request, class_)
                check_scope(class_, request.query)
                found = await self._reader.collection(request.asker, class_, wanted)
                matched = None if wanted.filter is None else found.matched
                rows = None if wanted.hidden else found.rows
                listing = Listing(class_.collection, found.count, matched, rows, [])
                return responses.json(envelope(listing, wanted.window, request.query, request.url))
            case "OPTIONS":
                return responses.json(class_options(class_))
            case "POST":
                raise bodies.unsupported_action(bodies.action_of(request.members), class_.collection, of="collection")
            case _:
                raise no_route(request.method, request.path)

    async def _resource(self, request: Request, class_: Class, id: str) -> Answer:
        match request.method:
            case "GET":
                _check_read(request, class_)
                shape = parse_shape(class_, request.query, expanded=True)
                return responses.json(await self._reader.resource(request.asker, class_, _number(class_, id), shape))
            case "OPTIONS":
                return responses.json(class_options(class_))
            case "POST":
                raise bodies.unsupported_action(bodies.action_of(request.members), class_.collection, of="resource")
            case "DELETE":
                raise bodies.unsupported_action("delete", class_.collection, of="resource")
            case _:
                raise no_route(request.method, request.path)

    # ---- snapshots of a machine

    async def _snapshots(self, request: Request, parent: Class, number: int) -> Answer:
        match request.method:
            case "GET":
                _check_read(request, parent)
                return await self._list(request, parent, number)
            case "OPTIONS":
                return responses.json(
                    snapshot_options(parent, await self._reader.machine(request.asker, parent, number))
                )
            case "POST":
                return await self._post_list(request, parent, number)
            case _:
                raise no_route(request.method, request.path)

    async def _list(self, request: Request, parent: Class, number: int) -> Answer:
        wanted = self._wanted(request, SNAPSHOTS)
        machine, found = await self._reader.subcollection(request.asker, parent, number, wanted)
        actions = [
            {"name": name, "method": "post", "href": request.url}
            for name in ("create", "delete")
            if _ACTIONS[name] not in machine["refusals"]
        ]
        matched = None if wanted.filter is None else found.matched
        rows = None if wanted.hidden else found.rows
        listing = Listing(SNAPSHOTS.collection, found.count, matched, rows, actions)
        return responses.json(envelope(listing, wanted.window, request.query, request.url))

    async def _post_list(self, request: Request, parent: Class, number: int) -> Answer:
        action = bodies.action_of(request.members)
        if action not in ("create", "delete"):
            raise bodies.unsupported_action(action, SNAPSHOTS.collection, of="collection")
        _check_action(request, parent, action)
        _check_accept(request)
        resources = bodies.items(request.members, action)
        bulk = "resources" in request.members
        if action == "create":
            bodies.check_new(resources)
            found = await self._writer.create(request.asker, parent, number, resources, request.key)
        else:
            found = await self._writer.delete_several(request.asker, parent, number, resources, request.key)
        return responses.results(found, bulk=bulk)

    async def _snapshot(self, request: Request, parent: Class, machine: int, id: str) -> Answer:
        match request.method:
            case "GET":
                _check_read(request, parent)
                shape = parse_shape(SNAPSHOTS, request.query, expanded=True)
                number = _number(SNAPSHOTS, id)
                return responses.json(await self._reader.snapshot(request.asker, parent, machine, number, shape))
            case "DELETE":
                if not request.asker.caller.may(SnapshotAction.DELETE, _kind(parent)):
                    raise forbidden("Use of the delete action is forbidden")
                return await self._delete(request, parent, machine, _number(SNAPSHOTS, id))
            case "POST":
                return await self._post_one(request, parent, machine, id)
            case _:
                raise no_route(request.method, request.path)

    async def _delete(self, request: Request, parent: Class, machine: int, number: int) -> Answer:
        """204 has no body: where the task can be followed stands in a header."""
        result = await self._writer.delete(request.asker, parent, machine, number, request.key)
        if not result["success"]:
            return responses.result(result)
        return Answer(status=204, headers=[(b"location", result["task_href"].encode())])

    async def _post_one(self, request: Request, parent: Class, machine: int, id: str) -> Answer:
        action = bodies.action_of(request.members)
        if action not in ("delete", "revert") or (action == "revert" and parent.kind is not MachineKind.VM):
            raise bodies.unsupported_action(action, SNAPSHOTS.collection, of="resource")
        _check_action(request, parent, action)
        _check_accept(request)
        do = self._writer.revert if action == "revert" else self._writer.delete
        return responses.result(await do(request.asker, parent, machine, _number(SNAPSHOTS, id), request.key))


def _number(class_: Class, id: str) -> int:
    if not _DIGITS.fullmatch(id):
        raise bad_request(f"Invalid {class_.name} id {id} specified")
    if len(id) > 19 or int(id) > _LARGEST:
        raise not_found(class_.name, id)
    return int(id)


def _kind(parent: Class) -> MachineKind:
    assert parent.kind is not None
    return parent.kind


def _check_read(request: Request, class_: Class) -> None:
    """Tasks are for everybody: what they tell is bounded by the tenant."""
    if class_.kind is not None and not request.asker.caller.may(SnapshotAction.READ, class_.kind):
        raise forbidden("Use of the read action is forbidden")
    _check_accept(request)


def _check_action(request: Request, parent: Class, action: str) -> None:
    if not request.asker.caller.may(_ACTIONS[action], _kind(parent)):
        raise forbidden(f"Use of Action {action} is forbidden")


def _check_accept(request: Request) -> None:
    accept = request.headers.get(b"accept", b"").decode("latin-1")
    if accept and not any(part in accept.lower() for part in ("json", "*/*", "application/*")):
        message = f"Invalid Response Format {accept} requested"
        raise RestError(415, "unsupported_media_type", message, "Api::UnsupportedMediaTypeError")
