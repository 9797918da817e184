"""Clients that create, revert, delete, retry and read, on whichever gateway answers, and record what they are told.

An answer that does not come, or that says the gateway could not, leaves the outcome unknown: the client asks again with
its key, somewhere else, until it knows.
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

_PATIENCE = 3.0  # seconds until a client asks somebody else
_MANY = 12  # snapshots of a machine, from which on clients would rather delete

_ERRORS = "errors { code message }"
_MUTATIONS = {
    "create": "mutation ($input: CreateSnapshotInput!) { createSnapshot(input: $input) { operation { id } %s } }",
    "revert": "mutation ($input: RevertVmSnapshotInput!) { revertVmSnapshot(input: $input) { operation { id } %s } }",
    "delete": "mutation ($input: DeleteSnapshotsInput!) { deleteSnapshots(input: $input)"
    " { results { operation { id } %s } %s } }",
}
_READ = (
    "query ($id: ID!) { vm(id: $id) { snapshots(first: 1000, sort: [{field: ID}]) { totalCount"
    " nodes { id name state isCurrent providerRef parent { id } } } } }"
)
_CHANGES = "subscription { operationChanged { id state } }"


class Unknown(Exception):
    """No answer, or one that leaves open what happened."""


class Clients:
    """All of them, and what they have recorded. `unclear` counts why outcomes were unknown."""

    def __init__(self, fleet: Fleet, machines: list[int], history: History, seed: int) -> None:
        self._fleet = fleet
        self._machines = machines
        self._history = history
        self._chance = random.Random(seed)
        self._http = httpx2.AsyncClient(timeout=_PATIENCE, trust_env=False, limits=httpx2.Limits(max_connections=500))
        self.unclear: Counter[str] = Counter()

    async def close(self) -> None:
        await self._http.aclose()

    async def live(self, stop: asyncio.Event) -> None:
        """One client: reads, decides, asks, until `stop`."""
        while not stop.is_set():
            machine = self._chance.choice(self._machines)
            read = await self.read(machine)
            await self._change(machine, self._choose(read))

    async def read(self, machine: int) -> Read:
        """What some gateway shows of a machine."""
        while True:
            begun = time.time()
            try:
                data = await self._ask(self._anyone(), _READ, {"id": f"vm-{machine}"})
            except Unknown:
                continue
            found = data["vm"]["snapshots"]
            nodes = {_number(node["id"]): _node(node) for node in found["nodes"]}
            read = Read(machine, begun, time.time(), nodes, found["totalCount"])
            self._history.reads.append(read)
            return read

    def _choose(self, read: Read) -> tuple[str, dict[str, Any]]:
        chance = self._chance
        ready = [f"snapshot-{number}" for number, node in read.nodes.items() if node.state in {"READY", "ERROR"}]
        lot = chance.random() * (0.7 if len(read.nodes) > _MANY else 1.0)
        if ready and lot < 0.4:
            ids = chance.sample(ready, min(len(ready), chance.choice((1, 1, 3))))
            return "delete", {"ids": ids, "withDescendants": chance.random() < 0.2}
        if ready and lot < 0.7:
            return "revert", {"snapshotId": chance.choice(ready)}
        return "create", {"machineId": f"vm-{read.machine}", "memory": chance.random() < 0.2}

    async def _change(self, machine: int, wish: tuple[str, dict[str, Any]]) -> None:
        kind, wished = wish
        key = uuid4().hex
        if kind == "create":
            wished["name"] = key
        twice = self._chance.random() < 0.1  # at the same time, as impatient clients do
        await asyncio.gather(*(self._insist(machine, kind, wished, key) for _ in range(1 + twice)))
        if self._chance.random() < 0.2:  # and again later
            await self._insist(machine, kind, wished, key)

    async def _insist(self, machine: int, kind: str, wished: dict[str, Any], key: str) -> None:
        mutation = _MUTATIONS[kind].replace("%s", _ERRORS)
        while True:
            begun = time.time()
            try:
                data = await self._ask(self._anyone(), mutation, {"input": wished | {"idempotencyKey": key}})
            except Unknown:
                self._history.attempts.append(Attempt(key, kind, machine, begun, time.time(), None))
                continue
            (payload,) = data.values()
            results = payload.get("results", [payload])
            refused = [error["code"] for result in (payload, *results) for error in result["errors"]]
            numbers = tuple(_number(result["operation"]["id"]) for result in results if result["operation"])
            answered = (numbers, refused[0] if refused else None)
            self._history.attempts.append(Attempt(key, kind, machine, begun, time.time(), *answered))
            return

    async def subscribe(self, who: str) -> None:
        """Follows every operation over whatever happens, from event to event, until it is cancelled."""
        last: str | None = None
        while True:
            body = {"query": _CHANGES} | ({} if last is None else {"extensions": {"lastEventId": last}})
            try:
                stream = self._http.stream(
                    "POST", f"{self._anyone()}/graphql", json=body, headers={"accept": "text/event-stream"}
                )
                async with stream as answer:
                    async for line in answer.aiter_lines():
                        if line.startswith("data: {"):
                            last = self._hear(who, orjson.loads(line[6:])) or last
            except httpx2.HTTPError as error:
                self.unclear[f"stream: {type(error).__name__}"] += 1

    def _hear(self, who: str, message: dict[str, Any]) -> str | None:
        if "errors" in message:
            self.unclear[f"stream: {message['errors'][0]['extensions']['code']}"] += 1
            return None
        operation = message["data"]["operationChanged"]
        self._history.seen[who].append((_number(operation["id"]), operation["state"]))
        event: str = message["extensions"]["eventId"]
        return event

    def heard_all(self, ids: set[int]) -> bool:
        """Whether every subscriber has seen the end of all these operations."""
        ends = ({number for number, state in seen if state in FINAL} for seen in self._history.seen.values())
        return all(ids <= end for end in ends)

    def _anyone(self) -> str:
        return self._chance.choice(self._fleet.members).url

    async def _ask(self, url: str, query: str, variables: dict[str, Any]) -> dict[str, Any]:
        """The data of an answer. Raises Unknown."""
        try:
            answer = await self._http.post(f"{url}/graphql", json={"query": query, "variables": variables})
            body = answer.json()
        except (httpx2.HTTPError, ValueError) as error:
            self.unclear[type(error).__name__] += 1
            raise Unknown from error
        if "errors" in body:
            self.unclear[body["errors"][0]["extensions"]["code"]] += 1
            raise Unknown
        data: dict[str, Any] = body["data"]
        return data


def _number(id_: str) -> int:
    return int(id_.rpartition("-")[2])


def _node(node: dict[str, Any]) -> Node:
    parent = _number(node["parent"]["id"]) if node["parent"] else None
    return Node(node["name"], node["state"], node["isCurrent"], parent, node["providerRef"] is not None)
