"""The services of the OpenStack double. They answer like the real ones (tests/openstack); Cinder was not compared.

Time does not pass by itself: Nova's work advances one step per GET of the server, Cinder's per GET of a snapshot.
"""

import json
from collections.abc import Iterator
from dataclasses import dataclass, field
from http import HTTPStatus
from itertools import count
from typing import Any
from urllib.parse import quote
from uuid import uuid4

PASSWORD, PROJECT = "hush", "ours"
PATCH_TYPE = "application/openstack-images-v2.1-json-patch"  # the only type of a PATCH that the double accepts

Row = dict[str, Any]
Answer = tuple[int, Any]  # HTTP status, and an object for JSON or text for HTML

# The server's task state and the image's status, at each poll.
STEPS = (
    ("image_snapshot", "queued"),
    ("image_pending_upload", "queued"),
    ("image_uploading", "saving"),
    ("image_uploading", "active"),
    (None, "active"),
)
# The steps of an image whose creation fails or does not end.
ABANDONED = (*STEPS[:2], ("image_uploading", None), (None, None))
LEFT_QUEUED = ((None, "queued"),)
NEVER_ENDS = (("image_uploading", "saving"),) * 1_000

_STATUS = {"active": "ACTIVE", "stopped": "SHUTOFF", "building": "BUILD", "suspended": "SUSPENDED", "paused": "PAUSED"}
_POWER = {"active": 1, "stopped": 4, "building": 0, "suspended": 7, "paused": 3}


_SNAPSHOTTABLE = {None, "active", "stopped", "suspended", "paused"}  # states of servers of which Nova creates images


def fault(name: str, code: int, words: str) -> Answer:
    """An error in the format of Nova and Cinder."""
    return code, {name: {"code": code, "message": words}}


def page(code: int, words: str) -> Answer:
    """An error in the format of Glance."""
    title = HTTPStatus(code).phrase
    head = f"<html>\n <head>\n  <title>{code} {title}</title>\n </head>\n"
    return code, f"{head} <body>\n  <h1>{code} {title}</h1>\n  {words}<br /><br />\n\n\n\n </body>\n</html>"


@dataclass
class Services:
    """All services, at one address."""

    url: str = ""
    password: str = PASSWORD
    with_volumes: bool = True  # whether the cloud has Cinder
    servers: dict[str, Row] = field(default_factory=dict)
    images: dict[str, Row] = field(default_factory=dict)
    volume_snapshots: dict[str, Row] = field(default_factory=dict)
    steps: tuple[tuple[str | None, str | None], ...] = STEPS  # of the next images
    tokens: set[str] = field(default_factory=set)
    # The image that Nova creates of a server, and the steps that are left.
    tasks: dict[str, tuple[str, list[tuple[str | None, str | None]]]] = field(default_factory=dict)
    _seconds: Iterator[int] = field(default_factory=count)

    def boot(
        self, name: str = "machine", state: str = "active", volumes: int = 0, image: str | None = None, **more: Any
    ) -> str:
        """Adds a server, created from an image or with volumes to run from. Returns its id."""
        ref = more.get("id") or str(uuid4())
        base = self.images[image] if image else {}
        self.servers[ref] = {
            "id": ref,
            "name": name,
            "status": _STATUS[state],
            "created": self._now(),
            "tenant_id": PROJECT,
            "flavor": {"original_name": "small", "vcpus": 1},
            "description": None,
            "OS-EXT-AZ:availability_zone": "nova",
            "OS-EXT-STS:task_state": None,
            "OS-EXT-STS:vm_state": state,
            "OS-EXT-STS:power_state": _POWER[state],
            "os-extended-volumes:volumes_attached": [{"id": str(uuid4())} for _ in range(volumes)],
            "double:inherited": {key: base[key] for key in base.get("double:properties", ())},
        } | more
        return ref

    def snap(self, server: str, name: str = "by hand", **properties: str) -> str:
        """Adds an image that another client has created of a server. Returns its id."""
        ref = self._image(self.servers[server], name, properties)
        self.images[ref] |= {"status": "active", "size": 393_216}
        if self.servers[server]["os-extended-volumes:volumes_attached"]:
            self._snap_volumes(self.images[ref], self.servers[server])
        return ref

    def serve(self, service: str, method: str, path: list[str], query: dict[str, str], body: Any) -> Answer:
        """The response to an authenticated request."""
        serve = {"compute": self._compute, "image": self._glance, "volume": self._cinder}[service]
        return serve(method, path, query, body)

    def identify(self, path: str, body: Any, token: str) -> Answer:
        """Keystone's response. Registers the token if the credentials are valid."""
        if not path:
            link = {"rel": "self", "href": f"{self.url}/identity/v3/"}
            return 200, {"version": {"id": "v3.14", "status": "stable", "links": [link]}}
        proof = body["auth"]["identity"]
        given = proof.get("password", {}).get("user", {}).get("password", "") + proof.get(
            "application_credential", {}
        ).get("secret", "")
        if given != self.password:
            return fault("error", 401, "The request you have made requires authentication.")
        self.tokens.add(token)
        places = {"compute": "compute/v2.1", "image": "image"}
        if self.with_volumes:
            places["block-storage"] = "volume/v3"
        catalog = [
            {
                "type": kind,
                "endpoints": [
                    {"interface": "public", "region": "R", "region_id": "R", "url": f"{self.url}/{place}", "id": kind}
                ],
            }
            for kind, place in places.items()
        ]
        project = {"id": PROJECT, "name": PROJECT, "domain": {"id": "default", "name": "Default"}}
        user = {"id": "gateway", "name": "gateway", "domain": project["domain"]}
        times = {"issued_at": "2026-11-25T06:52:20.000000Z", "expires_at": "2999-11-25T07:52:20.000000Z"}
        return 201, {"token": {"methods": ["password"], "user": user, "project": project, "catalog": catalog} | times}

    # ---- Nova

    def _compute(self, method: str, path: list[str], query: dict[str, str], body: Any) -> Answer:
        match method, path:
            case "GET", [""]:
                return 200, {"version": self._version("v2.1", "compute/v2.1", version="2.104", min_version="2.1")}
            case "GET", ["servers"] | ["servers", "detail"]:
                rows = [row for row in self.servers.values() if row["tenant_id"] == PROJECT]
                refs = [row["id"] for row in rows]
                start = refs.index(query["marker"]) + 1 if "marker" in query else 0
                some = rows[start : start + int(query["limit"])]
                more = {"servers_links": [{"rel": "next"}]} if len(rows) > start + len(some) else {}
                return 200, {"servers": [_shown(row) for row in some]} | more
            case "GET", ["servers", ref] if self._is_ours(ref):
                self._step(ref)
                return 200, {"server": _shown(self.servers[ref])}
            case "POST", ["servers", ref, "action"] if self._is_ours(ref):
                return self._create_image(self.servers[ref], body["createImage"])
        return fault("itemNotFound", 404, f"Instance {path[1] if path[1:] else ''} could not be found.")

    def _is_ours(self, ref: str) -> bool:
        return ref in self.servers and self.servers[ref]["tenant_id"] == PROJECT

    def _create_image(self, server: Row, request: Row) -> Answer:
        name, metadata = request["name"], request["metadata"]
        if not name.isprintable() or name != name.strip() or any(c > "\uffff" for c in name):
            rule = "printable characters. Can not start or end with whitespace."
            return fault("badRequest", 400, f"An invalid 'name' value was provided. The name must be: {rule}")
        for key, value in {"name": name, **metadata}.items():
            if len(value) > 255:
                return fault("badRequest", 400, f"Invalid input for field/attribute {key}. Value: {value} is too long")
            if any(character > "\uffff" for character in value):
                words = f"HTTP 400 Bad Request: {key.title()} can&#x27;t contain 4 byte unicode characters."
                return fault("badRequest", 400, words)
        for what in ("task_state", "vm_state"):
            state = server[f"OS-EXT-STS:{what}"]
            if state not in _SNAPSHOTTABLE:
                words = f"Cannot 'createImage' instance {server['id']} while it is in {what} {state}"
                return fault("conflictingRequest", 409, words)
        ref = self._image(server, name, metadata)
        if server["os-extended-volumes:volumes_attached"]:
            self._snap_volumes(self.images[ref], server)
        else:
            server["OS-EXT-STS:task_state"] = "image_snapshot_pending"
            self.tasks[server["id"]] = (ref, list(self.steps))
        return 202, {"image_id": ref}

    def _image(self, server: Row, name: str, metadata: Row) -> str:
        """Adds the record of an image and returns its id. It names the server unless that runs from volumes."""
        own = (
            {}
            if server["os-extended-volumes:volumes_attached"]
            else {"instance_uuid": server["id"], "image_type": "snapshot"}
        )
        properties = server["double:inherited"] | own | metadata
        ref = str(uuid4())
        self.images[ref] = {
            **properties,
            "double:properties": list(properties),
            "id": ref,
            "name": name,
            "status": "queued",
            "size": None,
            "protected": False,
            "created_at": self._now(),
        }
        return ref

    def _step(self, server: str) -> None:
        image, steps = self.tasks.get(server, ("", []))
        if not steps:
            return
        task, status = steps.pop(0)
        if image not in self.images:  # it was deleted, and Nova notices
            task, status = None, None
            steps.clear()
        self.servers[server]["OS-EXT-STS:task_state"] = task
        if status is None:
            self.images.pop(image, None)
        else:
            self.images[image] |= {"status": status, "size": 393_216 if status == "active" else None}

    # ---- Glance

    def _glance(self, method: str, path: list[str], query: dict[str, str], body: Any) -> Answer:
        match method, path:
            case "GET", [""]:
                return 300, {"versions": [self._version("v2.17", "image/v2"), self._version("v2.16", "image/v2")]}
            case "GET", ["images"]:
                limit, marker = int(query.pop("limit")), query.pop("marker", None)
                rows = [row for row in self.images.values() if query.items() <= row.items()]
                rows.sort(key=lambda row: (str(row["created_at"]), row["id"]), reverse=True)
                start = [row["id"] for row in rows].index(marker) + 1 if marker else 0
                some = rows[start : start + limit]
                answer: Row = {"images": [_shown(row) for row in some], "schema": "/v2/schemas/images"}
                if len(some) == limit:
                    words = "".join(f"{quote(key)}={quote(value)}&" for key, value in query.items())
                    answer["next"] = f"/v2/images?{words}limit={limit}&marker={some[-1]['id']}"
                return 200, answer
            case "GET", ["images", ref]:
                return (200, _shown(self.images[ref])) if ref in self.images else _no_image(ref)
            case "PATCH", ["images", ref]:
                return self._patch_image(ref, body)
            case "DELETE", ["images", ref]:
                if ref not in self.images:
                    return page(404, f"Failed to find image {ref} to delete")
                if self.images[ref]["protected"]:
                    return page(403, f"Image {ref} is protected and cannot be deleted.")
                del self.images[ref]
                return 204, ""
        return page(404, "The resource could not be found.")

    def _patch_image(self, ref: str, changes: list[Row] | None) -> Answer:
        """Sets the name and properties of an image. `changes`: None if the request has another content type."""
        if changes is None:
            return page(415, "The request media type application/json is not supported by this server.")
        if ref not in self.images:
            return _no_image(ref)
        image = self.images[ref]
        for change in changes:
            assert change["op"] == "add"
            key = change["path"].removeprefix("/")
            image[key] = change["value"]
            if key != "name" and key not in image["double:properties"]:
                image["double:properties"].append(key)
        return 200, _shown(image)

    # ---- Cinder

    def _snap_volumes(self, image: Row, server: Row) -> None:
        mapping = []
        for place, volume in enumerate(server["os-extended-volumes:volumes_attached"]):
            ref = str(uuid4())
            name = f"snapshot for {image['name']}"
            self.volume_snapshots[ref] = {"id": ref, "name": name, "status": "creating", "volume_id": volume["id"]}
            own = {"source_type": "snapshot", "destination_type": "volume", "boot_index": place, "snapshot_id": ref}
            mapping.append(own | {"volume_id": None, "volume_size": 1})
        mapping.append({"source_type": "blank", "destination_type": "local", "snapshot_id": None})
        image |= {"status": "active", "size": 0, "block_device_mapping": json.dumps(mapping), "bdm_v2": "True"}

    def _cinder(self, method: str, path: list[str], query: dict[str, str], body: Any) -> Answer:
        match method, path:
            case "GET", [""]:
                return 200, {"versions": [self._version("v3.0", "volume/v3", version="3.71", min_version="3.0")]}
            case "GET", ["snapshots"]:
                return 200, {
                    "snapshots": [row for row in self.volume_snapshots.values() if query.items() <= row.items()]
                }
            case "GET", ["snapshots", ref] if ref in self.volume_snapshots:
                row = dict(self.volume_snapshots[ref])
                if row["status"] == "creating":
                    self.volume_snapshots[ref]["status"] = "available"
                if row["status"] == "deleting":
                    del self.volume_snapshots[ref]
                return 200, {"snapshot": row}
            case "DELETE", ["snapshots", ref] if ref in self.volume_snapshots:
                self.volume_snapshots[ref]["status"] = "deleting"
                return 202, ""
        return fault("itemNotFound", 404, f"Snapshot {path[-1]} could not be found.")

    # ---- details

    def _version(self, id_: str, place: str, **more: str) -> Row:
        link = {"rel": "self", "href": f"{self.url}/{place}/"}
        return {"id": id_, "status": "CURRENT", "updated": "2026-11-25T00:00:00Z", "links": [link], **more}

    def _now(self) -> str:
        seconds = next(self._seconds)
        return f"2026-11-25T06:{seconds // 60:02}:{seconds % 60:02}Z"


def _shown(row: Row) -> Row:
    return {key: value for key, value in row.items() if not key.startswith("double:")}


def _no_image(ref: str) -> Answer:
    return page(404, f"No image found with ID {ref}")
