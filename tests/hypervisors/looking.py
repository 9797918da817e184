"""What tests of a libvirt behind a gateway share: to see it as a client does, and to ask for work and wait for it."""

import json
from pathlib import Path
from typing import Any

from tests.cli.programs import Program
from tests.hypervisors.libvirtd import Libvirtd, await_true
from tests.serving import Served

SEEN = (
    "{ vms { nodes { id name powerState goneAt"
    " snapshots(sort: [{field: ID}]) { nodes { id name state memory isCurrent parent { name } } } } } }"
)
ENDED = "subscription ($id: ID!) { operationUpdated(id: $id) { state isDone error { code message providerMessage } } }"


def providers_file(daemon: Libvirtd, directory: Path) -> str:
    """A file that names the daemon as the only provider."""
    file = directory / "providers.toml"
    file.write_text(f'[lab]\ndriver = "libvirt"\naddress = "{daemon.address}"\n')
    return str(file)


class Looking:
    """A client of a gateway, whether that is served here or by a program."""

    def __init__(self, gateway: Served | Program) -> None:
        self._gateway = gateway

    def vm(self, name: str) -> dict[str, Any]:
        """The machine of that name, as soon as the gateway has met it."""
        found: dict[str, Any] = await_true(lambda: self.vms().get(name))
        return found

    def vms(self) -> dict[str, dict[str, Any]]:
        """Those that are there."""
        return {vm["name"]: vm for vm in self._gateway.ask(SEEN)["vms"]["nodes"] if vm["goneAt"] is None}

    def power(self, name: str) -> str:
        found: str = self.vm(name)["powerState"]
        return found

    def tree(self, name: str) -> list[tuple[str, str | None]]:
        """Each snapshot's name and its parent's; `*` before that of the current one, `!` before those that are bad."""
        return [
            (
                {"READY": "", "ERROR": "!"}.get(node["state"], "?") + "*" * node["isCurrent"] + node["name"],
                node["parent"] and node["parent"]["name"],
            )
            for node in self.vm(name)["snapshots"]["nodes"]
        ]

    def snapshot(self, name: str, snapshot: str) -> str:
        """The id of the only snapshot of that name."""
        (id_,) = [node["id"] for node in self.vm(name)["snapshots"]["nodes"] if node["name"] == snapshot]
        assert isinstance(id_, str)
        return id_

    def begin(self, mutation: str, **given: Any) -> str:
        """Asks for something; the operation's id."""
        (payload,) = self._gateway.ask(mutation, input=given).values()
        (accepted,) = payload.get("results", [payload])
        assert accepted["errors"] == [], accepted
        id_: str = accepted["operation"]["id"]
        return id_

    def end(self, operation: str) -> tuple[str, Any]:
        """State and error of the operation, when it has ended."""
        body = {"query": ENDED, "variables": {"id": operation}}
        last: dict[str, Any] = {}
        headers = {"accept": "text/event-stream"}
        with self._gateway.http.stream("POST", "/graphql", json=body, headers=headers, timeout=120) as answer:
            for line in answer.iter_lines():
                if line.startswith("data: {"):
                    last = json.loads(line.removeprefix("data: "))["data"]["operationUpdated"]
        assert last["isDone"]
        return last["state"], last["error"]

    def do(self, mutation: str, **given: Any) -> None:
        """Asks for something, and sees it come to a good end."""
        assert self.end(self.begin(mutation, **given)) == ("SUCCEEDED", None)
