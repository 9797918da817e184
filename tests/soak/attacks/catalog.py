"""The attacks. Each is a function that runs until it is canceled at the end of the attack, and a row of `ATTACKS`.

The attacker has the token of a viewer and an address of its own, if the docstring of the attack says nothing else.
"""

import asyncio
import json
import re
import ssl
from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from itertools import count
from urllib.parse import quote, urlencode

import orjson
from websockets.asyncio.client import connect
from websockets.exceptions import ConnectionClosed, InvalidStatus

from gateway.web.graphiql import STATIC
from tests.limits import attacks as request_attacks
from tests.soak.attacks.attacker import Attacker, Step
from tests.soak.attacks.target import ATTACKER, VICTIM
from tests.soak.raw_client import RawConnection, request, unverified_tls

_MIB = 1 << 20


@dataclass(frozen=True, slots=True)
class LoadAttack:
    """An attack by load. `settings` are those that the gateway needs for it, besides the default ones.

    `is_provider`: the attacker is the Proxmox VE cluster of a configured provider. `is_short`: part of quick runs.
    `has_tls`: the gateway serves TLS. `documents`: those that it has as persisted documents, by id.
    """

    run: Callable[[Attacker], Awaitable[None]]
    settings: Mapping[str, str] = field(default_factory=dict)
    is_provider: bool = False
    is_short: bool = False
    has_tls: bool = False
    documents: Mapping[str, str] = field(default_factory=dict)

    @property
    def name(self) -> str:
        return self.run.__name__.replace("_", "-")


# ---- requests that wait


async def missing_bodies(attacker: Attacker) -> None:
    """100 POSTs whose bodies never arrive, half of them without a token."""
    headers = "content-type: application/json\r\ncontent-length: 100\r\n"
    messages = [attacker.head("POST", "/graphql", token=token, headers=headers) for token in (None, "")]
    await attacker.repeat(100, *_asks(attacker, messages), pause=0.5)


async def half_heads(attacker: Attacker) -> None:
    """4,300 connections of one host with half a head, without a token."""
    await attacker.repeat(4_300, *_asks(attacker, [b"GET /healthz HTTP/1.1\r\nhost: localhost\r\n"]), pause=5.0)


async def slow_readers(attacker: Attacker) -> None:
    """30 connections that request 30 MB each, and take 4 KB every 5 s."""
    message = attacker.post(LARGE_ANSWER)
    await attacker.repeat(30, lambda: attacker.read_slowly(message, 4_096, 5.0))


# ---- reads that are much work


def _slow_read(number: int) -> str:
    """A document that searches the names of all snapshots 100 times. The number makes it a different one."""
    counts = (f'a{n}: snapshots(filter: {{name: {{like: "*{number}*x*{n}*z*"}}}}) {{ totalCount }}' for n in range(100))
    return f"{{ {' '.join(counts)} }}"


async def eight_slow_reads(attacker: Attacker) -> None:
    """8 reads at a time that take seconds each, twice the number of read connections."""
    await attacker.repeat(8, *_asks(attacker, [attacker.post(_slow_read(number)) for number in range(8)]))


async def forty_slow_reads(attacker: Attacker) -> None:
    """40 reads at a time that take seconds each."""
    await attacker.repeat(40, *_asks(attacker, [attacker.post(_slow_read(number)) for number in range(40)]))


async def large_page(attacker: Attacker) -> None:
    """The REST list of all machines with their snapshots."""
    await attacker.repeat(1, *_asks(attacker, [attacker.head("GET", "/api/vms?expand=resources,snapshots&limit=1000")]))


LARGE_ANSWER = (  # within the cost limit
    "{ vms(first: 1000) { nodes { snapshots(first: 190) { nodes { id name description state memory isCurrent sizeBytes"
    " providerRef createdAt createdBy observedAt } } } } }"
)


async def large_answers(attacker: Attacker) -> None:
    """4 at a time of a query within the cost limit, whose answer has 30 MB."""
    await attacker.repeat(4, *_asks(attacker, [attacker.post(LARGE_ANSWER)]))


async def regular_expressions(attacker: Attacker) -> None:
    """400 regular expressions on 10,000 names in each REST request, 2 at a time."""
    filters = [("filter[]", f"or name=~/upgrade.*{number:03}.*x$/") for number in range(400)]
    path = f"/api/vms/{attacker.target.big_machine}/snapshots?expand=resources&limit=10&{urlencode(filters)}"
    await attacker.repeat(2, *_asks(attacker, [attacker.head("GET", path)]))


async def documented_limits(attacker: Attacker) -> None:
    """Filters at the documented limits of their numbers, 4 at a time. A status of 500 is a failure of the gateway."""
    limits = (100, 494, 495, 497, 499, 500)
    paths = [
        "/api/vms?" + urlencode([("filter[]", f"{word}name=n{number}") for number in range(limit)])
        for limit in limits
        for word in ("", "or ")
    ]
    arrays = (f"name=[{','.join(map(str, range(limit)))}]" for limit in limits)
    paths += [f"/api/vms?filter[]={quote(array)}" for array in arrays]
    documents = []
    for depth in (3, 6, 9, 12, 15):
        inner: object = {"name": {"eq": "x"}}
        for _ in range(depth):
            inner = {"machine": {"someSnapshot": inner}}
        documents.append(inner)
    for limit in (248, 249, 250):  # a member and its operator count one condition each
        terms = [{"name": {"eq": f"n{number}"}} for number in range(limit)]
        documents += [{"or": terms}, {"and": terms}, {"not": {"or": terms}}]
    text = "query ($f: SnapshotFilter) { snapshots(filter: $f, first: 1) { totalCount nodes { id } } }"
    messages = [attacker.head("GET", path) for path in paths]
    messages += [attacker.post(text, {"f": document}) for document in documents]
    await attacker.repeat(4, *_asks(attacker, messages))


# ---- documents that are refused


_OF_VARIABLE = "query ($f: MachineFilter) { vms(filter: $f) { totalCount } }"


def _invalid_documents(filler: str) -> list[str]:
    """Documents with as many errors as the limits of tokens and fields permit. `filler` makes the names longer."""

    def names(prefix: str, number: int, suffix: str = "") -> str:
        return " ".join(f"{prefix}{position:04}{filler}{suffix}" for position in range(number))

    members = names("member", 1_600, ": 1")
    return [
        f"{{ vms(filter: {{{members}}}) {{ totalCount }} }}",
        f"{{ {names('unknown', 900)} }}",
        f"{{ vms {{ nodes {{ {names('snapshot', 900)} }} }} }}",  # names that have suggestions
        f"{{ vms(filter: {{powerState: {{in: [{names('NAME', 1_600)}]}}}}) {{ totalCount }} }}",
        f"{{ {' '.join(f'vms(first: {number}) {{ totalCount }}' for number in range(450))} }}",  # cannot be merged
        f"{{ vms({members}) {{ totalCount }} }}",
        f"{{ vms(first: {{{members}}}) {{ totalCount }} }}",
        f"{{ __typename {names('...F', 950)} }}",
        f"query ({names('$v', 1_000, ': Int')}) {{ __typename }}",
        f"query ({names('$v', 1_000, ': Unknown')}) {{ __typename }}",
    ]


async def invalid_documents(attacker: Attacker) -> None:
    """Documents of 10 to 25 KB in which everything is wrong, 4 at a time."""
    await attacker.repeat(4, *_asks(attacker, [attacker.post(document) for document in _invalid_documents("")]))


async def invalid_long_documents(attacker: Attacker) -> None:
    """Documents of nearly 1 MB in which everything is wrong, 4 at a time."""
    await attacker.repeat(4, *_asks(attacker, [attacker.post(each) for each in _invalid_documents("x" * 570)]))


async def invalid_variables(attacker: Attacker) -> None:
    """Variables of nearly 1 MB in which everything is wrong, 4 at a time."""
    ids = "query ($ids: [ID!]!) { nodes(ids: $ids) { id } }"
    members: dict[str, object] = {f"m{number:05}": 1 for number in range(76_000)}
    messages = [
        attacker.post(_OF_VARIABLE, {"f": members}),
        attacker.post(_OF_VARIABLE, {"f": {"powerState": {"in": [f"A{number}" for number in range(100_000)]}}}),
        attacker.post(_OF_VARIABLE, {"f": {"or": [1] * 400_000}}),
        attacker.post(_OF_VARIABLE, {"f": {"or": [{"name": {"eq": 1}}] * 50_000}}),
        attacker.post(ids, {"ids": [True] * 180_000}),
        attacker.post(ids, {"ids": [f"vm-x{number}" for number in range(80_000)]}),
        attacker.post("{ __typename }", members),
        attacker.post(f"query (${'x' * 200_000}: T) {{ {'y' * 700_000} }}"),
    ]
    await attacker.repeat(4, *_asks(attacker, messages))


async def known_attacks(attacker: Attacker) -> None:
    """The malicious requests of `tests/limits/attacks.py`, 8 at a time."""
    await attacker.repeat(8, *_asks(attacker, [_known(attacker, attack) for attack in request_attacks.ATTACKS]))


def _known(attacker: Attacker, attack: request_attacks.Attack) -> bytes:
    if attack.raw is not None:
        line, _, rest = attack.raw.partition(b"\r\n")
        return line + b"\r\nauthorization: Bearer " + attacker.target.tokens["attacker"].encode() + b"\r\n" + rest
    body = attack.body if isinstance(attack.body, bytes) else b"" if attack.body is None else _json(attack.body)
    headers = {"content-type": "application/json", **attack.headers, "content-length": str(len(body))}
    lines = "".join(f"{name}: {value}\r\n" for name, value in headers.items())
    return attacker.head(attack.method, attack.path, headers=lines) + body


def _json(value: object) -> bytes:
    return json.dumps(value).encode()  # orjson refuses the nested and the invalid values of these attacks


# ---- many of something cheap


async def flood(attacker: Attacker) -> None:
    """64 connections that send cheap queries as fast as they are answered, while `/metrics` is scraped."""
    body = request("{ viewer { name } }")
    connections = [
        RawConnection(attacker.target.url, token=attacker.target.tokens["attacker"], source=ATTACKER) for _ in range(64)
    ]

    def step(connection: RawConnection) -> Step:
        async def send() -> bool:
            try:
                status = str((await connection.send(body)).status)
            except (OSError, EOFError):
                connection.close()
                status = "connection lost"
            attacker.got[status] += 1
            return status == "200"

        return send

    async with asyncio.TaskGroup() as group:
        for connection in connections:
            group.create_task(attacker.repeat(1, step(connection)))


async def bad_tokens(attacker: Attacker) -> None:
    """5 clients with bad tokens from the address of the victims (NAT), of which some use new and valid tokens."""
    numbers = count(1)

    def ask() -> Awaitable[bool]:
        token = f"sgw_{next(numbers) % 50}_{'0' * 64}"
        return attacker.ask(attacker.post("{ viewer { name } }", token=token), source=VICTIM)

    await attacker.repeat(5, ask)


_SUBSCRIPTION = (
    "subscription ($first: Int!) { operationChanged { id state machine { id name snapshots(first: $first)"
    " { totalCount nodes { id name state createdAt parent { id name } } } } } }"
)


async def equal_subscriptions(attacker: Attacker) -> None:
    """1,000 equal subscriptions on 10 WebSockets, while the victims change snapshots."""
    await _subscribe(attacker, [50] * 1_000)


async def different_subscriptions(attacker: Attacker) -> None:
    """1,000 subscriptions with different pages on 10 WebSockets, while the victims change snapshots."""
    await _subscribe(attacker, range(1, 1_001))


async def _subscribe(attacker: Attacker, pages: Sequence[int]) -> None:
    """Subscribes once for each size of a page. Counts the received messages by type."""

    async def subscribe(mine: Sequence[int]) -> None:
        headers = {"authorization": f"Bearer {attacker.target.tokens['attacker']}"}
        try:
            async with connect(
                attacker.target.url.replace("http", "ws") + "/graphql",
                subprotocols=["graphql-transport-ws"],  # type: ignore[list-item]
                additional_headers=headers,
                local_addr=(ATTACKER, 0),
                proxy=None,
                compression=None,
                max_size=None,
                close_timeout=1,
            ) as opened:
                await opened.send('{"type":"connection_init"}')
                for number, first in enumerate(mine):
                    payload = {"query": _SUBSCRIPTION, "variables": {"first": first}}
                    await opened.send(json.dumps({"id": str(number), "type": "subscribe", "payload": payload}))
                async for message in opened:
                    kind = next((kind for kind in ("next", "error") if f'"type":"{kind}"' in message[:200]), "other")
                    attacker.got[f"message {kind}"] += 1
                    attacker.received += len(message)
        except InvalidStatus as refused:
            attacker.got[str(refused.response.status_code)] += 1
        except ConnectionClosed as closed:
            attacker.got[f"close {closed.rcvd.code if closed.rcvd else 1006}"] += 1
        except OSError:
            attacker.got["connection lost"] += 1

    size = len(pages) // 10
    async with asyncio.TaskGroup() as group:
        for start in range(0, len(pages), size):
            group.create_task(subscribe(pages[start : start + size]))


# ---- requests that are refused, or that need no database


async def refused_requests(attacker: Attacker) -> None:
    """100 connections that pipeline requests which are refused: 400, 401, 404, 405, 406, 414 and 421."""
    body = "content-type: application/json\r\ncontent-length: 1\r\n"
    heads = [
        attacker.head("GET", "/nothing", keep_alive=True),
        attacker.head("GET", "/graphql/nothing", keep_alive=True),
        attacker.head("GET", "/api/nothing", keep_alive=True),
        attacker.head("GET", "/api/vms?limit=x", keep_alive=True),
        attacker.head("DELETE", "/graphql", keep_alive=True),
        attacker.head("OPTIONS", "/graphql", keep_alive=True),
        attacker.head("GET", "/graphql", headers="accept: image/png\r\n", keep_alive=True),
        attacker.head("GET", f"/graphql?query={'x' * 33_000}", keep_alive=True),
        attacker.head("POST", "/graphql", headers=body, keep_alive=True) + b"x",
        attacker.head("GET", "/graphql?query=x", token="", keep_alive=True),
        attacker.head("GET", "/api/vms", token=f"sgw_1_{'0' * 64}", keep_alive=True),
        attacker.head("GET", "/api/vms", keep_alive=True).replace(b"host: ", b"host: other."),
    ]
    await _pipeline(attacker, heads)


async def rate_limited_requests(attacker: Attacker) -> None:
    """100 connections that pipeline cheap reads over the quota of the caller."""
    await _pipeline(attacker, [attacker.head("GET", "/api/vms/11", keep_alive=True)])


async def static_files(attacker: Attacker) -> None:
    """100 connections that download what is served without a token: pages, assets of GraphiQL, the schema."""
    assets = [f"/graphiql/assets/{file.name}" for file in sorted((STATIC / "assets").iterdir())]
    paths = ["/", "/schema.graphql", "/graphiql", *assets]
    await attacker.repeat(100, *_asks(attacker, [attacker.head("GET", path, token="") for path in paths]))


async def static_pages(attacker: Attacker) -> None:
    """100 connections that pipeline requests for pages which are served without a token."""
    paths = ["/", "/schema.graphql", "/graphiql", "/graphiql/assets/nothing.js"]
    await _pipeline(attacker, [attacker.head("GET", path, token="", keep_alive=True) for path in paths])


async def _pipeline(attacker: Attacker, messages: Sequence[bytes], last: bytes | None = None) -> None:
    """Sends the messages in turn on 100 connections, 50 before each look at the responses."""
    last = attacker.head("GET", "/nothing") if last is None else last

    async def send() -> bool:
        await attacker.pipeline([*messages] * max(1, 50 // len(messages)), rest=last)
        return True

    await attacker.repeat(100, send)


async def log_ins(attacker: Attacker) -> None:
    """64 clients that create sessions with one token, and use each once."""

    async def log_in() -> bool:
        connection = RawConnection(attacker.target.url, token=attacker.target.tokens["attacker"], source=ATTACKER)
        try:
            response = await connection.get("/api/auth")
            outcome = f"log-in {response.status}"
            if response.status == 200:
                session = orjson.loads(response.body)["auth_token"]
                await attacker.ask(attacker.head("GET", "/api/vms/11", token=session))
        except (OSError, EOFError):
            outcome = "connection lost"
        finally:
            connection.close()
        attacker.got[outcome] += 1
        return outcome == "log-in 200"

    await attacker.repeat(64, log_in)


async def long_filters(attacker: Attacker) -> None:
    """Filters of 120 patterns, each new to the gateway, 4 at a time."""
    text = "query ($f: SnapshotFilter) { snapshots(filter: $f, first: 1) { nodes { id } } }"
    numbers = count(1)

    def ask() -> Awaitable[bool]:
        number = next(numbers)
        terms = [{"name": {"like": f"*{number}x{term}*y*z*"}} for term in range(120)]
        terms[number % 120] = {"description": {"like": f"*{number}*"}}
        return attacker.ask(attacker.post(text, {"f": {"or": terms}}))

    await attacker.repeat(4, ask)


async def handshakes(attacker: Attacker) -> None:
    """100 connections that repeat a recorded TLS ClientHello, which costs the attacker nothing."""
    out = ssl.MemoryBIO()
    hello = unverified_tls().wrap_bio(ssl.MemoryBIO(), out, server_hostname="localhost")
    with suppress(ssl.SSLWantReadError):
        hello.do_handshake()
    message = out.read()

    async def send() -> bool:
        await attacker.begin(message)
        return True

    await attacker.repeat(100, send)


async def queued_operations(attacker: Attacker) -> None:
    """As many snapshots of one operator as may be queued, on the 23 instances. The victims create theirs on VMs."""
    connection = attacker.connection("writer")
    call = "createSnapshot(input: $i{0}) {{ errors {{ code }} }}"
    text = "mutation ({}) {{ {} }}".format(
        ", ".join(f"$i{number}: CreateSnapshotInput!" for number in range(23)),
        " ".join(f"s{number}: {call.format(number)}" for number in range(23)),
    )
    for turn in count():
        inputs = {f"i{number}": {"machineId": f"instance-{201 + number}", "name": f"{turn}"} for number in range(23)}
        response = await connection.send(request(text, **inputs))
        attacker.got[str(response.status)] += 1
        if refused := _ERROR_CODE.findall(response.body.decode()):
            attacker.got.update(refused)
            await asyncio.sleep(0.1)


async def resumed_streams(attacker: Attacker) -> None:
    """300 event streams that resume after an old event, and read nothing. The writer changes snapshots meanwhile."""
    event = await _first_event(attacker)
    connection = attacker.connection("writer")
    for number in range(100):
        await connection.send(request(_UPDATE, input={"snapshotId": "snapshot-1", "description": f"change {number}"}))
    body = orjson.dumps({"query": _RESUMED, "extensions": {"lastEventId": event}})
    headers = "content-type: application/json\r\naccept: text/event-stream\r\n" + f"content-length: {len(body)}\r\n"
    message = attacker.head("POST", "/graphql", headers=headers) + body

    async def resume() -> bool:
        await attacker.read_slowly(message, 4_096, 1.0)
        return True

    await attacker.repeat(300, resume)


async def _first_event(attacker: Attacker) -> str:
    connection = attacker.connection("attacker")
    async for line in connection.stream(request(_RESUMED)):
        if found := re.search(rb"id: ?(\S+)", line):
            connection.close()
            return found[1].decode()
    raise AssertionError("The stream has no event id.")


_RESUMED = "subscription { snapshotChanged { kind snapshot { id name description machine { name } } } }"
_UPDATE = "mutation ($input: UpdateSnapshotInput!) { updateSnapshot(input: $input) { errors { code } } }"
_ERROR_CODE = re.compile(r'"code":"([A-Z_]+)"')


async def refused_mutations(attacker: Attacker) -> None:
    """100 mutations per request that the viewer has no right to, or that name no snapshot, 20 at a time."""

    def document(machine: int) -> str:
        call = f'createSnapshot(input: {{machineId: "vm-{machine}", name: "x"}}) {{ errors {{ code message }} }}'
        return f"mutation {{ {' '.join(f'm{number}: {call}' for number in range(100))} }}"

    documents = [document(11), document(999_999)]
    messages = [attacker.post(document) for document in documents]
    messages += [attacker.post(documents[1], token=attacker.target.tokens["writer"])]
    await attacker.repeat(20, *_asks(attacker, messages))


PERSISTED = {
    "many fields": "{ vms(first: 100) { nodes { "
    + " ".join(f"a{n}: snapshots(first: 5) {{ nodes {{ id name description state createdAt }} }}" for n in range(40))
    + " } } }",
    "other": "query ($f: SnapshotFilter) { snapshots(filter: $f, first: 1) { totalCount nodes { id } } }",
}


async def persisted_documents(attacker: Attacker) -> None:
    """Requests by the ids of persisted documents: known and unknown ones, with and without variables, 16 at a time."""
    bodies = [{"documentId": "many fields"}, {"documentId": "other"}]
    bodies += [{"documentId": "x" * size} for size in (1, 1_000, 900_000)]
    bodies.append({"documentId": "other", "variables": {"f": {"or": [{"name": {"like": "*a*b*"}}] * 90}}})  # type: ignore[dict-item]
    bodies.append({"extensions": {"persistedQuery": {"sha256Hash": "0" * 64}}})  # type: ignore[dict-item]
    messages = []
    for body in map(orjson.dumps, bodies):
        headers = f"content-type: application/json\r\ncontent-length: {len(body)}\r\n"
        messages.append(attacker.head("POST", "/graphql", headers=headers) + body)
    await attacker.repeat(16, *_asks(attacker, messages))


# ---- a provider


async def endless_provider(attacker: Attacker) -> None:
    """A Proxmox VE cluster whose answers are 3 GB of blanks. It accepts connections when the attack begins."""
    assert attacker.provider is not None
    blanks = b" " * _MIB

    async def answer(_reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        sent = 0
        try:
            writer.write(b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: 3000000000\r\n\r\n")
            while sent < 3_000_000_000:
                writer.write(blanks)
                await writer.drain()
                sent += len(blanks)
                attacker.received += len(blanks)
        except OSError:
            attacker.got["connection lost"] += 1
        except asyncio.CancelledError:  # the end of the attack; asyncio would print a traceback (Python 3.11)
            attacker.got["pending"] += 1
        else:
            attacker.got["all sent"] += 1
        finally:
            writer.transport.abort()

    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(attacker.provider.certificate, attacker.provider.key)
    async with await asyncio.start_server(answer, sock=attacker.provider.listening, ssl=context) as server:
        await server.serve_forever()


def _asks(attacker: Attacker, messages: Sequence[bytes]) -> list[Step]:
    return [lambda message=message: attacker.ask(message) for message in messages]  # type: ignore[misc]


ATTACKS: Mapping[str, LoadAttack] = {
    attack.name: attack
    for attack in (
        LoadAttack(missing_bodies, is_short=True),
        LoadAttack(eight_slow_reads),
        LoadAttack(forty_slow_reads),
        LoadAttack(large_page),
        LoadAttack(invalid_documents, is_short=True),
        LoadAttack(invalid_long_documents),
        LoadAttack(invalid_variables),
        LoadAttack(large_answers),
        LoadAttack(regular_expressions),
        LoadAttack(slow_readers),
        LoadAttack(equal_subscriptions),
        LoadAttack(different_subscriptions),
        LoadAttack(bad_tokens, is_short=True),
        LoadAttack(endless_provider, is_provider=True),
        LoadAttack(documented_limits),
        LoadAttack(half_heads),
        LoadAttack(flood, settings={"metrics_address": "127.0.0.1:0"}),
        LoadAttack(known_attacks),
        LoadAttack(refused_requests),
        LoadAttack(rate_limited_requests, settings={"caller_quota": "2000", "caller_window": "10"}),
        LoadAttack(static_files),
        LoadAttack(static_pages),
        LoadAttack(log_ins),
        LoadAttack(long_filters),
        LoadAttack(handshakes, has_tls=True),
        LoadAttack(queued_operations),
        LoadAttack(resumed_streams),
        LoadAttack(refused_mutations),
        LoadAttack(persisted_documents, documents=PERSISTED),
    )
}
