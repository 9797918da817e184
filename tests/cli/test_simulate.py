"""`gateway simulate`: how a machine of the demo world behaves, set while the gateway serves."""

from collections.abc import Iterator

import pytest

from gateway.config import Settings
from tests.cli.programs import refusal, run
from tests.databases import KINDS, Databases
from tests.serving import Served, served

Demo = tuple[Served, str]


@pytest.fixture(scope="module", params=KINDS)
def demo(request: pytest.FixtureRequest, databases: Databases) -> Iterator[Demo]:
    url = databases.new(request.param)
    with served(Settings(database_url=url), demo=True) as gateway:
        yield gateway, url


CREATE = (
    'mutation {{ createSnapshot(input: {{machineId: "{}", name: "n"}}) {{ operation {{ id }} errors {{ message }} }} }}'
)


def simulate(url: str, *arguments: str) -> str:
    code, out, err = run("simulate", *arguments, "--database-url", url)
    assert (code, err) == (0, "")
    return out.removesuffix("\n")


def test_a_fault_is_seen_by_the_gateway_that_serves(demo: Demo) -> None:
    gateway, url = demo
    fault = '{"on":"create","kind":"refuse","message":"the datastore is full","times":1}'
    assert simulate(url, "vm-11") == "vm-11: latency 1.5 s, fault none"
    assert simulate(url, "vm-11", "--fault", fault) == f"vm-11: latency 1.5 s, fault {fault}"
    assert simulate(url, "vm-11", "--latency", "0") == f"vm-11: latency 0 s, fault {fault}"
    assert simulate(url, "vm-11") == f"vm-11: latency 0 s, fault {fault}"
    for state, error in (
        (
            "FAILED",
            {
                "code": "PROVIDER_FAILED",
                "message": "the provider reported an error",
                "retryable": False,
                "providerMessage": "the datastore is full",
            },
        ),
        ("SUCCEEDED", None),
    ):
        created = gateway.ask(CREATE.format("vm-11"))["createSnapshot"]
        ended = gateway.await_operation(created["operation"]["id"])
        assert (ended["state"], ended["error"]) == (state, error)
    assert simulate(url, "vm-11", "--latency", "0.25") == "vm-11: latency 0.25 s, fault none"


def test_a_fault_is_taken_away(demo: Demo) -> None:
    _, url = demo
    fault = '{"kind":"unavailable"}'
    assert simulate(url, "instance-201", "--fault", fault) == f"instance-201: latency 1.5 s, fault {fault}"
    assert simulate(url, "instance-201", "--fault", "none") == "instance-201: latency 1.5 s, fault none"


MEMBERS = "it may have on, kind, message and times"
SHAPE = 'the fault must be none or a JSON object, such as {"on": "create", "kind": "refuse"}'


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["x"], "'x' is not an id: ids read like vm-11, instance-201, snapshot-3 or operation-7"),
        (["vm-99"], "there is no machine vm-99"),
        (["instance-11"], "there is no machine instance-11"),
        (["snapshot-3"], "there is no machine snapshot-3"),
        (["vm-11", "--latency", "-1"], "the latency must be between 0 and 86400 seconds, not -1"),
        (["vm-11", "--latency", "nan"], "the latency must be between 0 and 86400 seconds, not nan"),
        (["vm-11", "--latency", "inf"], "the latency must be between 0 and 86400 seconds, not inf"),
        (["vm-11", "--fault", "{"], SHAPE),
        (["vm-11", "--fault", "[]"], SHAPE),
        (["vm-11", "--fault", "null"], SHAPE),
        (["vm-11", "--fault", '{"kinds": 1}'], f"the fault has a member 'kinds'; {MEMBERS}"),
        (["vm-11", "--fault", "{}"], "the fault's `kind` must be one of refuse, unavailable, busy, lost, hang"),
        (["vm-11", "--fault", '{"kind": ["lost"]}'],
         "the fault's `kind` must be one of refuse, unavailable, busy, lost, hang"),
        (["vm-11", "--fault", '{"kind": "lost", "on": "boot"}'],
         "the fault's `on` must be one of create, revert, delete, any, read"),
        (["vm-11", "--fault", '{"kind": "lost", "message": 1}'], "the fault's `message` must be text"),
        (["vm-11", "--fault", '{"kind": "lost", "times": 0}'],
         "the fault's `times` must be a whole number of at least 1, or null for ever"),
        (["vm-11", "--fault", '{"kind": "lost", "times": true}'],
         "the fault's `times` must be a whole number of at least 1, or null for ever"),
    ],
    ids=" ".join,
)  # fmt: skip
def test_what_is_refused(databases: Databases, refusing: str, arguments: list[str], message: str) -> None:
    assert refusal("simulate", *arguments, "--database-url", refusing) == message


@pytest.fixture(scope="module")
def refusing(databases: Databases) -> str:
    url = databases.new("sqlite")
    with served(Settings(database_url=url), demo=True):
        return url
