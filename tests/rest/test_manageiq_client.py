"""The published client, manageiq-client 0.6.1, unmodified. It requires distutils, which Python 3.12 removed."""

import importlib
import sys
from collections.abc import Iterator
from typing import Any

import pytest

from gateway.config import Settings
from tests.access.clients import create_token
from tests.databases import Databases
from tests.rest.world import Rest
from tests.serving import served

pytestmark = [
    pytest.mark.skipif(sys.version_info >= (3, 12), reason="manageiq-client requires distutils"),
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
]


@pytest.fixture
def api(rest: Rest) -> Any:
    client = importlib.import_module("manageiq_client.api")
    return client.ManageIQClient(rest.root, {"user": "admin", "password": "smartvm"})


@pytest.fixture
def authenticated(databases: Databases) -> Iterator[tuple[Rest, str]]:
    """A gateway that requires authentication, and an operator's token."""
    settings = Settings(database_url=databases.new("sqlite", demo=True), drain_timeout=0.01)
    token = create_token(settings.database_url)
    with served(settings) as gateway:
        yield Rest(gateway, settings), token


def await_task(rest: Rest, task: Any) -> None:
    """Waits until the task has ended, and checks that the client sees its success."""
    rest.gateway.await_operation(f"operation-{task.id}")
    task.reload()
    assert (task.state, task.status) == ("Finished", "Ok")


def names(collection: Any) -> list[str]:
    return sorted(entity.name for entity in collection.all)


def test_connects(api: Any, rest: Rest) -> None:
    assert (api.version, api.latest_version, api.on_latest_version) == ("4.4.0", "4.4.0", True)
    assert set(api.collections.all_names) >= {"vms", "instances", "tasks"}
    assert api.identity["userid"] == "local"
    token = api.get(f"{rest.root}/auth")["auth_token"]
    client = importlib.import_module("manageiq_client.api")
    with_token = client.ManageIQClient(rest.root, {"token": token})
    assert with_token.api_version("4.4.0").collections.vms.get(name="web-01").id == "11"


def test_logs_in(authenticated: tuple[Rest, str]) -> None:
    """By the API token as password or token, and by a token of `/api/auth`. Other credentials are refused."""
    rest, token = authenticated
    client = importlib.import_module("manageiq_client.api")
    by_password = client.ManageIQClient(rest.root, {"user": "any-name", "password": token})
    assert (by_password.identity["userid"], by_password.identity["role"]) == ("ci", "operator")
    session = by_password.get(f"{rest.root}/auth")["auth_token"]
    for given in (session, token):
        by_token = client.ManageIQClient(rest.root, {"token": given})
        assert by_token.collections.vms.get(name="web-01").id == "11"
        assert by_token.identity["userid"] == "ci"
    for wrong in ({"user": "ci", "password": "smartvm"}, {"token": "0" * 32}):
        with pytest.raises(client.APIException, match="The credentials are not valid"):
            client.ManageIQClient(rest.root, wrong)
    with pytest.raises(client.APIException, match="Only a token that /api/auth issued can be revoked here"):
        by_token.delete(f"{rest.root}/auth")
    by_session = client.ManageIQClient(rest.root, {"token": session})
    by_session.delete(f"{rest.root}/auth")
    with pytest.raises(client.APIException, match="The credentials are not valid"):
        client.ManageIQClient(rest.root, {"token": session})


def test_lists_with_filters(api: Any) -> None:
    filters = importlib.import_module("manageiq_client.filters")
    vms = api.collections.vms
    assert vms.count == 30
    vm = vms.get(name="web-01")
    assert (vm.id, vm.power_state) == ("11", "on")
    with pytest.raises(ValueError, match="No such 'vms'"):
        vms.get(name="web-99")
    found = vm.snapshots.filter(filters.Q("name", "=", "test*") & filters.Q("total_size", ">", 13 << 30))
    assert [snapshot.name for snapshot in found.resources] == ["test-before-upgrade"]
    either = vm.snapshots.filter(filters.Q("id", "=", 3) | filters.Q("id", "=", 5))
    assert sorted(snapshot.name for snapshot in either) == ["test-base", "test-new-driver"]
    assert [entity.vm_or_template for entity in vm.snapshots.all_include_attributes(["vm_or_template.name"])] == [
        {"name": "web-01"}
    ] * 3
    assert [snapshot.name for snapshot in vm.snapshots] == ["test-new-driver", "test-before-upgrade", "test-base"]
    assert "snapshots" in vm.subcollections


def test_creates_reverts_and_deletes(api: Any, rest: Rest) -> None:
    vm = api.collections.vms.get(name="web-01")
    (task,) = vm.snapshots.action.create(name="by client", description="one", memory=False)
    await_task(rest, task)
    several = vm.snapshots.action.create({"name": "two"}, {"name": "three"})
    for task in several:
        await_task(rest, task)
    old = ["test-base", "test-before-upgrade", "test-new-driver"]
    assert names(vm.snapshots) == ["by client", *old, "three", "two"][:1] + old + ["three", "two"]

    base = vm.snapshots.get(name="test-base")
    assert "revert" in base.action
    await_task(rest, base.action.revert())
    base.reload()
    assert base.current == 1

    mine = vm.snapshots.get(name="by client")
    await_task(rest, mine.action.delete())
    assert not mine.exists
    three = vm.snapshots.get(name="three")
    assert api.delete(three["href"]) is None
    task_href = api.response.headers["location"]
    await_task(rest, api.get_entity("tasks", task_href.rpartition("/")[2]))
    assert not three.exists

    tasks = vm.snapshots.action.delete(vm.snapshots.get(name="two"), vm.snapshots.get(name="test-new-driver"))
    for task in tasks:
        await_task(rest, task)
    assert names(vm.snapshots) == ["test-base", "test-before-upgrade"]


def test_refusals(api: Any) -> None:
    exception = importlib.import_module("manageiq_client.api").APIException
    instance = api.collections.instances.get(name="api-01")
    snapshot = instance.snapshots.get(name="test-image")
    assert "revert" not in snapshot.action
    with pytest.raises(AttributeError, match="No such action revert"):
        snapshot.action.revert()
    with pytest.raises(exception, match="HTTP status 400"):
        instance.snapshots.action.create(name="")
    with pytest.raises(exception, match="Couldn't find Vm with 'id'=99"):
        api.get_entity("vms", 99).reload()
