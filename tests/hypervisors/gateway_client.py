"""A GraphQL client for tests of a gateway with a libvirt provider: it reads machines and runs operations."""

import json
from pathlib import Path
from typing import Any

from tests.cli.programs import Program
from tests.hypervisors.libvirtd import Libvirtd
from tests.serving import Served
from tests.waiting import until, within

VMS = (
    "{ vms { nodes { id name powerState goneAt"
    " snapshots(sort: [{field: ID}]) { nodes { id name state memory isCurrent parent { name } } } } } }"
)
OPERATION_UPDATES = (
    "subscription ($id: ID!) { operationUpdated(id: $id) { state isDone error { code message providerMessage } } }"
)


def providers_file(daemon: Libvirtd, directory: Path) -> str:
    """Writes a providers file with the daemon as the only provider. Returns its path."""
    file = directory / "providers.toml"
    file.write_text(f'[lab]\ndriver = "libvirt"\naddress = "{daemon.address}"\n')
    return str(file)


class GatewayClient:
    """A client of a gateway, which is served in this process or by a program."""

    def __init__(self, gateway: Served | Program) -> None:
        self._gateway = gateway

    def vm(self, name: str) -> dict[str, Any]:
        """The machine with this name. Waits until the gateway has imported it."""
        found: dict[str, Any] = until(lambda: self.vms().get(name))
        return found

    def vms(self) -> dict[str, dict[str, Any]]:
        """The machines that the provider still has, by name."""
        return {vm["name"]: vm for vm in self._gateway.ask(VMS)["vms"]["nodes"] if vm["goneAt"] is None}

    def power(self, name: str) -> str:
        found: str = self.vm(name)["powerState"]
        return found

    def tree(self, name: str) -> list[tuple[str, str | None]]:
        """Each snapshot's name and its parent's name.

        The name has the prefix `*` if the snapshot is current, and before that `!` in the state ERROR or `?` in another
        state than READY.
        """
        return [
            (
                {"READY": "", "ERROR": "!"}.get(node["state"], "?") + "*" * node["isCurrent"] + node["name"],
                node["parent"] and node["parent"]["name"],
            )
            for node in self.vm(name)["snapshots"]["nodes"]
        ]

    def snapshot(self, name: str, snapshot: str) -> str:
        """The id of the only snapshot with this name."""
        (id_,) = [node["id"] for node in self.vm(name)["snapshots"]["nodes"] if node["name"] == snapshot]
        assert isinstance(id_, str)
        return id_

    def start_operation(self, mutation: str, **arguments: Any) -> str:
        """Sends a mutation. Returns the id of its operation."""
        (payload,) = self._gateway.ask(mutation, input=arguments).values()
        (accepted,) = payload.get("results", [payload])
        assert accepted["errors"] == [], accepted
        id_: str = accepted["operation"]["id"]
        return id_

    def await_operation(self, operation: str) -> tuple[str, Any]:
        """Waits until the operation has ended. Returns its state and error."""
        body = {"query": OPERATION_UPDATES, "variables": {"id": operation}}
        last: dict[str, Any] = {}
        headers = {"accept": "text/event-stream"}
        with self._gateway.http.stream("POST", "/graphql", json=body, headers=headers, timeout=120) as answer:
            for line in within(answer.iter_lines(), 240):
                if line.startswith("data: {"):
                    last = json.loads(line.removeprefix("data: "))["data"]["operationUpdated"]
        assert last["isDone"]
        return last["state"], last["error"]

    def run_operation(self, mutation: str, **arguments: Any) -> None:
        """Sends a mutation and asserts that its operation succeeds."""
        assert self.await_operation(self.start_operation(mutation, **arguments)) == ("SUCCEEDED", None)
