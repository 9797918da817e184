"""Clients that create, revert, update, delete, retry and read on random gateways, and record the responses.

A missing response, or a top-level error, leaves the outcome of a request unknown. The client then repeats the request
with the same idempotency key on a random gateway until it gets a definite response.
"""

import asyncio
import random
import time
from collections import Counter
from typing import Any
from uuid import uuid4

import httpx2
import orjson

from tests.soak.fleet import Fleet
from tests.soak.history import FINAL, Attempt, History, Node, Read

_TIMEOUT = 3.0  # seconds, for each request
_MANY = 12  # snapshots of a machine above which clients delete more often

_ERRORS = "errors { code message }"
_MUTATIONS = {
    "create": "mutation ($input: CreateSnapshotInput!) { createSnapshot(input: $input) { operation { id } %s } }",
    "revert": "mutation ($input: RevertVmSnapshotInput!) { revertVmSnapshot(input: $input) { operation { id } %s } }",
    "update": "mutation ($input: UpdateSnapshotInput!) { updateSnapshot(input: $input) { operation { id } %s } }",
    "delete": "mutation ($input: DeleteSnapshotsInput!) { deleteSnapshots(input: $input)"
    " { results { operation { id } %s } %s } }",
}
_READ = (
    "query ($id: ID!) { vm(id: $id) { snapshots(first: 1000, sort: [{field: ID}]) { totalCount"
    " nodes { id name description state isCurrent providerRef parent { id } } } } }"
)
_CHANGES = "subscription { operationChanged { id state } }"


class UnknownOutcome(Exception):
    """The request got no response, or one that does not say whether it took effect."""


class Clients:
    """All clients of a run. Records into `history`; `unknown_outcomes` counts unknown outcomes by reason."""

    def __init__(self, fleet: Fleet, machines: list[int], history: History, seed: int) -> None:
        self._fleet = fleet
        self._machines = machines
        self._history = history
        self._chance = random.Random(seed)
        self._http = httpx2.AsyncClient(timeout=_TIMEOUT, trust_env=False, limits=httpx2.Limits(max_connections=500))
        self.unknown_outcomes: Counter[str] = Counter()
        self.subscribed: set[str] = set()  # subscribers that have received the id from which they can resume

    async def close(self) -> None:
        await self._http.aclose()

    async def run(self, stop: asyncio.Event) -> None:
        """Runs one client until `stop`: reads a machine, then sends a random change."""
        while not stop.is_set():
            machine = self._chance.choice(self._machines)
            read = await self.read(machine)
            await self._change(machine, self._choose(read))

    async def read(self, machine: int) -> Read:
        """Reads the snapshots of a machine from a random gateway, and records the read."""
        while True:
            started = time.time()
            try:
                data = await self._query(self._random_url(), _READ, {"id": f"vm-{machine}"})
            except UnknownOutcome:
                continue
            found = data["vm"]["snapshots"]
            nodes = {_number(node["id"]): _node(node) for node in found["nodes"]}
            read = Read(machine, started, time.time(), nodes, found["totalCount"])
            self._history.reads.append(read)
            return read

    def _choose(self, read: Read) -> tuple[str, dict[str, Any]]:
        chance = self._chance
        ready = [f"snapshot-{number}" for number, node in read.nodes.items() if node.state in {"READY", "ERROR"}]
        draw = chance.random() * (0.7 if len(read.nodes) > _MANY else 1.0)
        if ready and draw < 0.4:
            ids = chance.sample(ready, min(len(ready), chance.choice((1, 1, 3))))
            return "delete", {"ids": ids, "withDescendants": chance.random() < 0.2}
        if ready and draw < 0.6:
            return "revert", {"snapshotId": chance.choice(ready)}
        if ready and draw < 0.7:
            return "update", {"snapshotId": chance.choice(ready)}
        return "create", {"machineId": f"vm-{read.machine}", "memory": chance.random() < 0.2}

    async def _change(self, machine: int, change: tuple[str, dict[str, Any]]) -> None:
        kind, arguments = change
        key = uuid4().hex
        if kind in ("create", "update"):
            arguments["name" if kind == "create" else "description"] = key
        twice = self._chance.random() < 0.1  # the same request twice at the same time
        await asyncio.gather(*(self._send_until_known(machine, kind, arguments, key) for _ in range(1 + twice)))
        if self._chance.random() < 0.2:  # a repetition after the response
            await self._send_until_known(machine, kind, arguments, key)

    async def _send_until_known(self, machine: int, kind: str, arguments: dict[str, Any], key: str) -> None:
        mutation = _MUTATIONS[kind].replace("%s", _ERRORS)
        while True:
            started = time.time()
            try:
                data = await self._query(self._random_url(), mutation, {"input": arguments | {"idempotencyKey": key}})
            except UnknownOutcome:
                self._history.attempts.append(Attempt(key, kind, machine, started, time.time(), None))
                continue
            (payload,) = data.values()
            results = payload.get("results", [payload])
            refused = [error["code"] for result in (payload, *results) for error in result["errors"]]
            numbers = tuple(_number(result["operation"]["id"]) for result in results if result["operation"])
            answered = (numbers, refused[0] if refused else None)
            self._history.attempts.append(Attempt(key, kind, machine, started, time.time(), *answered))
            return

    async def subscribe(self, subscriber: str) -> None:
        """Subscribes to all operations until it is canceled. Reconnects with the last event id after every failure."""
        last: str | None = None
        while True:
            body = {"query": _CHANGES} | ({} if last is None else {"extensions": {"lastEventId": last}})
            try:
                stream = self._http.stream(
                    "POST", f"{self._random_url()}/graphql", json=body, headers={"accept": "text/event-stream"}
                )
                async with stream as answer:
                    async for line in answer.aiter_lines():
                        if line.startswith("id: ") and last is None:
                            last = line.removeprefix("id: ")
                            self.subscribed.add(subscriber)
                        if line.startswith("data: {"):
                            last = self._record_event(subscriber, orjson.loads(line[6:])) or last
            except httpx2.HTTPError as error:
                self.unknown_outcomes[f"stream: {type(error).__name__}"] += 1

    def _record_event(self, subscriber: str, message: dict[str, Any]) -> str | None:
        if "errors" in message:
            self.unknown_outcomes[f"stream: {message['errors'][0]['extensions']['code']}"] += 1
            return None
        operation = message["data"]["operationChanged"]
        self._history.events[subscriber].append((_number(operation["id"]), operation["state"]))
        event: str = message["extensions"]["eventId"]
        return event

    def received_all(self, ids: set[int]) -> bool:
        """Whether every subscriber has received the end of all these operations."""
        ends = ({number for number, state in events if state in FINAL} for events in self._history.events.values())
        return all(ids <= end for end in ends)

    def _random_url(self) -> str:
        return self._chance.choice(self._fleet.members).url

    async def _query(self, url: str, query: str, variables: dict[str, Any]) -> dict[str, Any]:
        """The `data` of a response. Raises UnknownOutcome."""
        try:
            answer = await self._http.post(f"{url}/graphql", json={"query": query, "variables": variables})
            body = answer.json()
        except (httpx2.HTTPError, ValueError) as error:
            self.unknown_outcomes[type(error).__name__] += 1
            raise UnknownOutcome from error
        if "errors" in body:
            self.unknown_outcomes[body["errors"][0]["extensions"]["code"]] += 1
            raise UnknownOutcome
        data: dict[str, Any] = body["data"]
        return data


def _number(id_: str) -> int:
    return int(id_.rpartition("-")[2])


def _node(node: dict[str, Any]) -> Node:
    parent = _number(node["parent"]["id"]) if node["parent"] else None
    has_ref = node["providerRef"] is not None
    return Node(node["name"], node["state"], node["isCurrent"], parent, has_ref, node["description"])
