"""A REST client, and gateways with other callers, for tests."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from starlette.routing import Mount

from gateway.access.admission import Admission
from gateway.access.caller import Caller, Right
from gateway.access.quotas import Quotas
from gateway.app import opened_drivers
from gateway.config import Settings
from gateway.models import MachineKind, SnapshotAction
from gateway.operations.audit_refusals import RefusalLog
from gateway.operations.service import Operations
from gateway.rest.endpoint import Authenticator, rest_routes
from gateway.store.database import Transaction
from tests.rest.authenticators import FixedCaller
from tests.serving import Served, served, without_refreshes

Json = dict[str, Any]

READER = frozenset[Right]({(SnapshotAction.READ, MachineKind.VM)})


class Rest:
    """A client of a gateway's REST API."""

    def __init__(self, gateway: Served, settings: Settings, root: str = "/api") -> None:
        self.gateway = gateway
        self.settings = settings
        self.http = gateway.http
        self.root = gateway.url + root

    def get(self, path: str, status: int = 200, /, **params: Any) -> Any:
        """The JSON body for a path below `/api` or a whole URL, with the expected status. `filter` is `filter[]`."""
        if "filter" in params:
            params["filter[]"] = params.pop("filter")
        answer = self.http.get(path if path.startswith("http") else self.root + path, params=params or None)
        assert answer.status_code == status, answer.text
        return answer.json()

    def post(self, path: str, body: Any, status: int = 200, *, key: str | None = None) -> Any:
        """The JSON body of the response. `key` is the idempotency key."""
        headers = {} if key is None else {"Idempotency-Key": key}
        answer = self.http.post(self.root + path, json=body, headers=headers)
        assert answer.status_code == status, answer.text
        return answer.json()

    def ids(self, path: str, **params: Any) -> list[str]:
        """The ids of a list, in order."""
        return [row["id"] for row in self.get(path, expand="resources", attributes="id", **params)["resources"]]

    def refusal(self, path: str, **params: Any) -> str:
        """The message of a 400."""
        error = self.get(path, 400, **params)["error"]
        assert error["kind"] == "bad_request", error
        assert error["klass"] == "Api::BadRequestError", error
        message: str = error["message"]
        return message

    def create(self, path: str = "/vms/11/snapshots", name: str = "made") -> Json:
        """Creates a snapshot, waits for it, and returns the create's result."""
        result: Json = self.post(path, {"name": name})["results"][0]
        assert self.finish(result["task_id"])["status"] == "Ok"
        return result

    def finish(self, task_id: str) -> Json:
        """Waits until the task has ended and returns it."""
        self.gateway.await_operation(f"operation-{task_id}")
        task: Json = self.get(f"/tasks/{task_id}")
        assert task["state"] == "Finished"
        return task

    def sql(self, text: str) -> None:
        """Runs a statement on the gateway's database."""

        async def work(transaction: Transaction) -> None:
            await transaction.rows(text)

        self.gateway.run(self.gateway.gateway.database.write(work))


@contextmanager
def rest_served(settings: Settings) -> Iterator[Rest]:
    """A gateway whose operations take 1 ms. It does not refresh, because tests change the inventory with SQL."""
    with served(settings, jobs=without_refreshes) as gateway:
        rest = Rest(gateway, settings)
        rest.sql("UPDATE simulated_machine SET latency_ms = 1")
        yield rest


def as_caller(rest: Rest, name: str, rights: frozenset[Right], tenant: str = "default") -> Rest:
    """The same gateway for another caller."""
    return mounted(rest, f"/as-{name}", FixedCaller(Caller(name, tenant, ("reader",), rights, key=name)))


def mounted(rest: Rest, place: str, authenticator: Authenticator, public_url: str | None = None) -> Rest:
    """The same gateway at the path `place`, with another authenticator and public URL."""
    routes = _routes(rest.gateway, rest.settings, authenticator, public_url)
    rest.gateway.gateway.app.router.routes.append(Mount(place, routes=routes))
    return Rest(rest.gateway, rest.settings, f"{place}/api")


def _routes(gateway: Served, settings: Settings, authenticator: Authenticator, public_url: str | None = None) -> Any:
    found = gateway.gateway

    async def make() -> Any:
        async with opened_drivers(found.database, []) as drivers:  # simulated drivers, which need not be closed
            refusals = RefusalLog(found.database, settings.tenant)
            operations = Operations(found.database, drivers, settings, wake=found.worker.wake, refusals=refusals)
        limit = settings.max_body_bytes
        return rest_routes(
            found.database,
            operations,
            authenticator,
            Admission(Quotas(settings)),
            public_url=public_url,
            max_body_bytes=limit,
            body_timeout=settings.body_timeout,
            max_cost=settings.max_cost,
            turns=found.turns,
        )

    return gateway.run(make())
