"""The routes: maps each request to a read or a write, with checks in ManageIQ's order.

The order is: the syntax of the body and the names of the parameters (before this module); path, method and action; the
caller's rights; the header Accept; the rest of the request.
"""

import re
from dataclasses import replace

from gateway.http.load_shedding import LoopTurns
from gateway.models import MachineKind, SnapshotAction
from gateway.operations.audit_refusals import RefusalLog
from gateway.rest import bodies, responses
from gateway.rest.audit import record_refusal
from gateway.rest.classes import COLLECTIONS, INSTANCES, SNAPSHOTS, TASKS, VMS, ResourceClass
from gateway.rest.entry_point import entry_point
from gateway.rest.errors import RestError, bad_request, forbidden, no_route, not_found
from gateway.rest.filter_cache import FilterCache
from gateway.rest.options import class_options, snapshot_options
from gateway.rest.paging import Listing, envelope
from gateway.rest.query import MAX_LIMIT, check_collection_parameters, parse_hidden, parse_shape, parse_window
from gateway.rest.reader import ListQuery, Reader
from gateway.rest.requests import Request
from gateway.rest.responses import RestResponse
from gateway.rest.sorts import parse_order
from gateway.rest.writer import Writer

_DIGITS = re.compile(r"\d+")
_LARGEST = 2**63 - 1
_ACTIONS = {"create": SnapshotAction.CREATE, "delete": SnapshotAction.DELETE, "revert": SnapshotAction.REVERT}


class Routes:
    """All routes below `/api` except `/api/auth`."""

    def __init__(self, reader: Reader, writer: Writer, refusals: RefusalLog, turns: LoopTurns) -> None:
        self._reader = reader
        self._writer = writer
        self._refusals = refusals
        self._filters = FilterCache()
        self._turns = turns

    async def serve(self, request: Request) -> RestResponse:
        """The response to a request. Raises RestError, which is recorded if it is a refusal, and GatewayError."""
        try:
            return await self._serve(request)
        except RestError as error:
            instance = await self._as_instance(request) if error.status == 404 else None
            if instance is None:
                await record_refusal(self._refusals, request, error)
                raise
        return await self.serve(instance)

    async def _as_instance(self, request: Request) -> Request | None:
        """The request for an instance that `request` names as a vm, or None: ManageIQ's vms contain all instances.

        The rights on both are required, and links keep the collection of `request`.
        """
        requester, segments = request.requester, request.segments
        if len(segments) < 2 or segments[0] != VMS.collection:
            return None
        if not requester.caller.has_right(SnapshotAction.READ, MachineKind.INSTANCE):
            return None
        try:
            await self._reader.machine(requester, INSTANCES, _number(INSTANCES, segments[1]))
        except RestError:
            return None
        segments = (INSTANCES.collection, *segments[1:])
        return replace(request, segments=segments, requester=replace(requester, collection=VMS.collection))

    async def _serve(self, request: Request) -> RestResponse:
        if not request.segments:
            return _entry_point(request)
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

    async def _list_query(self, request: Request, class_: ResourceClass) -> ListQuery:
        query = request.query
        window = parse_window(query)
        found = ListQuery(
            shape=parse_shape(class_, query, expanded=False),
            window=window,
            order=parse_order(class_, query.get("sort_by"), query.get("sort_order"), query.get("sort_options")),
            filter=self._filters.parse(class_, query.texts("filter")),
            hidden=parse_hidden(query),
            bounds=check_collection_parameters(class_, query) if class_ is not SNAPSHOTS else None,
        )
        for number, regex in enumerate(found.filter.regexes if found.filter else ()):
            if number:
                await self._turns.take()  # compiling all of them at once would delay other requests
            regex.compile()
        return found

    # ---- collections

    async def _collection(self, request: Request, class_: ResourceClass) -> RestResponse:
        match request.method:
            case "GET":
                _check_read(request, class_)
                list_query = await self._list_query(request, class_)
                found = await self._reader.collection(request.requester, class_, list_query)
                matched = None if list_query.filter is None else found.matched
                rows = None if list_query.hidden else found.rows
                actions = [
                    {"name": name, "method": "post", "href": request.url}
                    for name in _collection_actions(request, class_)
                ]
                listing = Listing(class_.collection, found.count, matched, rows, actions)
                body = envelope(listing, list_query.window, request.query, request.url)
                return await responses.sliced_json(body) if found.is_large else responses.json(body)
            case "OPTIONS":
                return responses.json(class_options(class_))
            case "POST":
                return await self._post_collection(request, class_)
            case _:
                raise no_route(request.method, request.path)

    async def _post_collection(self, request: Request, class_: ResourceClass) -> RestResponse:
        action = bodies.action_of(request.members)
        if action == "delete" and class_ is TASKS:
            _check_accept(request)
            named = bodies.items(request.members, action, class_.collection)
            numbers = [bodies.named_resource(item, class_) for item in named]
            results = await self._writer.delete_tasks(request.requester, numbers)
            return responses.results(results, bulk="resources" in request.members)
        if action != "query":
            raise bodies.unsupported_action(action, class_.collection, of="collection")
        if not _can_read(request, class_):
            raise forbidden(f"Use of Action {action} is forbidden")
        _check_accept(request)
        return await self._query(request, class_)

    async def _query(self, request: Request, class_: ResourceClass) -> RestResponse:
        """The resources that a body names."""
        shape = parse_shape(class_, request.query, expanded=True)
        named = bodies.items(request.members, "query", class_.collection, MAX_LIMIT)
        numbers = [bodies.named_resource(item, class_) for item in named]
        rows, is_large = await self._reader.by_number(request.requester, class_, numbers, shape)
        others = [number for number in numbers if number not in rows]
        if others and class_ is VMS and _can_read(request, INSTANCES):  # ManageIQ's vms contain all instances
            requester = replace(request.requester, collection=VMS.collection)
            shape = parse_shape(INSTANCES, request.query, expanded=True)
            instances, are_large = await self._reader.by_number(requester, INSTANCES, others, shape)
            found = rows | instances
            rows, is_large = {number: found[number] for number in numbers if number in found}, is_large or are_large
        if (missing := next((number for number in numbers if number not in rows), None)) is not None:
            raise not_found(class_.name, missing)
        body = {"results": list(rows.values())}
        return await responses.sliced_json(body) if is_large else responses.json(body)

    async def _resource(self, request: Request, class_: ResourceClass, id: str) -> RestResponse:
        match request.method:
            case "GET":
                _check_read(request, class_)
                shape = parse_shape(class_, request.query, expanded=True)
                return responses.json(
                    await self._reader.resource(request.requester, class_, _number(class_, id), shape)
                )
            case "OPTIONS":
                return responses.json(class_options(class_))
            case "POST" | "DELETE":
                return await self._write_resource(request, class_, id)
            case _:
                raise no_route(request.method, request.path)

    async def _write_resource(self, request: Request, class_: ResourceClass, id: str) -> RestResponse:
        """Only a task can be deleted. The response to DELETE has no body, unless it is refused."""
        action = "delete" if request.method == "DELETE" else bodies.action_of(request.members)
        if action != "delete" or class_ is not TASKS:
            raise bodies.unsupported_action(action, class_.collection, of="resource")
        if request.method == "POST":
            _check_accept(request)
        result = await self._writer.delete_task(request.requester, _number(class_, id))
        if request.method == "DELETE" and result["success"]:
            return RestResponse(status=204)
        return responses.result(result)

    # ---- snapshots of a machine

    async def _snapshots(self, request: Request, parent: ResourceClass, number: int) -> RestResponse:
        match request.method:
            case "GET":
                _check_read(request, parent)
                return await self._list(request, parent, number)
            case "OPTIONS":
                return responses.json(
                    snapshot_options(parent, await self._reader.machine(request.requester, parent, number))
                )
            case "POST":
                return await self._post_list(request, parent, number)
            case _:
                raise no_route(request.method, request.path)

    async def _list(self, request: Request, parent: ResourceClass, number: int) -> RestResponse:
        list_query = await self._list_query(request, SNAPSHOTS)
        machine, found = await self._reader.subcollection(request.requester, parent, number, list_query)
        actions = [
            {"name": name, "method": "post", "href": request.url}
            for name in ("create", "delete")
            if _ACTIONS[name] not in machine["refusals"]
        ]
        matched = None if list_query.filter is None else found.matched
        rows = None if list_query.hidden else found.rows
        listing = Listing(SNAPSHOTS.collection, found.count, matched, rows, actions)
        return responses.json(envelope(listing, list_query.window, request.query, request.url))

    async def _post_list(self, request: Request, parent: ResourceClass, number: int) -> RestResponse:
        action = bodies.action_of(request.members)
        write = {"create": self._writer.create, "delete": self._writer.delete_several}.get(action)
        if write is None:
            raise bodies.unsupported_action(action, SNAPSHOTS.collection, of="collection")
        _check_action(request, parent, action)
        _check_accept(request)
        resources = bodies.items(request.members, action)
        bulk = "resources" in request.members
        found = await write(request.requester, parent, number, resources, request.idempotency_key)
        return responses.results(found, bulk=bulk)

    async def _snapshot(self, request: Request, parent: ResourceClass, machine: int, id: str) -> RestResponse:
        match request.method:
            case "GET":
                _check_read(request, parent)
                shape = parse_shape(SNAPSHOTS, request.query, expanded=True)
                number = _number(SNAPSHOTS, id)
                return responses.json(await self._reader.snapshot(request.requester, parent, machine, number, shape))
            case "DELETE":
                if not request.requester.caller.has_right(SnapshotAction.DELETE, _kind(parent)):
                    raise forbidden("Use of the delete action is forbidden")
                return await self._delete(request, parent, machine, _number(SNAPSHOTS, id))
            case "POST":
                return await self._post_one(request, parent, machine, id)
            case _:
                raise no_route(request.method, request.path)

    async def _delete(self, request: Request, parent: ResourceClass, machine: int, number: int) -> RestResponse:
        """A 204 has no body, so the URL of the task is in the header Location."""
        result = await self._writer.delete(request.requester, parent, machine, number, request.idempotency_key)
        if not result["success"]:
            return responses.result(result)
        return RestResponse(status=204, headers=[(b"location", result["task_href"].encode())])

    async def _post_one(self, request: Request, parent: ResourceClass, machine: int, id: str) -> RestResponse:
        action = bodies.action_of(request.members)
        write = {"delete": self._writer.delete, "revert": self._writer.revert}.get(action)
        if write is None or (action == "revert" and parent.kind is not MachineKind.VM):
            raise bodies.unsupported_action(action, SNAPSHOTS.collection, of="resource")
        _check_action(request, parent, action)
        _check_accept(request)
        return responses.result(
            await write(request.requester, parent, machine, _number(SNAPSHOTS, id), request.idempotency_key)
        )


def _number(class_: ResourceClass, id: str) -> int:
    if not _DIGITS.fullmatch(id):
        raise bad_request(f"Invalid {class_.name} id {id} specified")
    if len(id) > 19 or int(id) > _LARGEST:
        raise not_found(class_.name, id)
    return int(id)


def _kind(parent: ResourceClass) -> MachineKind:
    assert parent.kind is not None
    return parent.kind


def _entry_point(request: Request) -> RestResponse:
    match request.method:
        case "GET":
            _check_accept(request)
            return responses.json(entry_point(request.requester, request.root, request.query.words("attributes")))
        case "OPTIONS":
            return RestResponse()
        case _:
            raise no_route(request.method, request.path)


def _collection_actions(request: Request, class_: ResourceClass) -> list[str]:
    """The actions of a collection that the caller has a right for."""
    writes = any(action is not SnapshotAction.READ for action, _ in request.requester.caller.rights)
    return ["query", "delete"] if class_ is TASKS and writes else ["query"]


def _can_read(request: Request, class_: ResourceClass) -> bool:
    """Reading tasks requires no right. Like all rows, they are limited to the caller's tenant."""
    return class_.kind is None or request.requester.caller.has_right(SnapshotAction.READ, class_.kind)


def _check_read(request: Request, class_: ResourceClass) -> None:
    if not _can_read(request, class_):
        raise forbidden("Use of the read action is forbidden")
    _check_accept(request)


def _check_action(request: Request, parent: ResourceClass, action: str) -> None:
    if not request.requester.caller.has_right(_ACTIONS[action], _kind(parent)):
        raise forbidden(f"Use of Action {action} is forbidden")


def _check_accept(request: Request) -> None:
    accept = request.headers.get(b"accept", b"").decode("latin-1")
    if accept and not any(part in accept.lower() for part in ("json", "*/*", "application/*")):
        raise RestError(415, f"Invalid Response Format {accept} requested")
