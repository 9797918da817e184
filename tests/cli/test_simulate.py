"""`gateway simulate`: sets the behavior of a simulated machine while the gateway serves."""

from collections.abc import Iterator

import pytest

from gateway.config import Settings
from tests.cli.programs import refusal, run
from tests.databases import SLOW_KINDS, Databases
from tests.serving import Served, served

Demo = tuple[Served, str]


@pytest.fixture(scope="module", params=SLOW_KINDS)
def demo(request: pytest.FixtureRequest, databases: Databases) -> Iterator[Demo]:
    url = databases.new(request.param, demo=True)
    with served(Settings(database_url=url)) as gateway:
        yield gateway, url


CREATE = (
    'mutation {{ createSnapshot(input: {{machineId: "{}", name: "n"}}) {{ operation {{ id }} errors {{ message }} }} }}'
)


def simulate(url: str, *arguments: str) -> str:
    code, out, err = run("simulate", *arguments, "--database-url", url)
    assert (code, err) == (0, "")
    return out.removesuffix("\n")


def test_a_fault_applies_to_a_serving_gateway(demo: Demo) -> None:
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
                "message": "The provider reported an error.",
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


def test_a_fault_is_removed(demo: Demo) -> None:
    _, url = demo
    fault = '{"kind":"unavailable"}'
    assert simulate(url, "instance-201", "--fault", fault) == f"instance-201: latency 1.5 s, fault {fault}"
    assert simulate(url, "instance-201", "--fault", "none") == "instance-201: latency 1.5 s, fault none"


MEMBERS = "It may have on, kind, message and times."
SHAPE = 'The fault must be none or a JSON object such as {"on": "create", "kind": "refuse"}.'


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["x"], "'x' is not an id. Ids look like vm-11, instance-201, snapshot-3 or operation-7."),
        (["vm-99"], "Machine 'vm-99' was not found."),
        (["instance-11"], "Machine 'instance-11' was not found."),
        (["snapshot-3"], "Machine 'snapshot-3' was not found."),
        (["vm-11", "--latency", "-1"], "The latency must be between 0 and 86400 seconds, not -1."),
        (["vm-11", "--latency", "nan"], "The latency must be between 0 and 86400 seconds, not nan."),
        (["vm-11", "--latency", "inf"], "The latency must be between 0 and 86400 seconds, not inf."),
        (["vm-11", "--fault", "{"], SHAPE),
        (["vm-11", "--fault", "[]"], SHAPE),
        (["vm-11", "--fault", "null"], SHAPE),
        (["vm-11", "--fault", '{"kinds": 1}'], f"The fault has an unknown member 'kinds'. {MEMBERS}"),
        (["vm-11", "--fault", "{}"],
         "The member 'kind' of the fault must be one of refuse, unavailable, busy, lost, hang."),
        (["vm-11", "--fault", '{"kind": ["lost"]}'],
         "The member 'kind' of the fault must be one of refuse, unavailable, busy, lost, hang."),
        (["vm-11", "--fault", '{"kind": "lost", "on": "boot"}'],
         "The member 'on' of the fault must be one of create, revert, delete, any, read."),
        (["vm-11", "--fault", '{"kind": "lost", "message": 1}'], "The member 'message' of the fault must be text."),
        (["vm-11", "--fault", '{"kind": "lost", "times": 0}'],
         "The member 'times' of the fault must be a whole number of at least 1, or null for no limit."),
        (["vm-11", "--fault", '{"kind": "lost", "times": true}'],
         "The member 'times' of the fault must be a whole number of at least 1, or null for no limit."),
    ],
    ids=" ".join,
)  # fmt: skip
def test_invalid_arguments(databases: Databases, url: str, arguments: list[str], message: str) -> None:
    assert refusal("simulate", *arguments, "--database-url", url) == message


@pytest.fixture(scope="module")
def url(databases: Databases) -> str:
    url = databases.new("sqlite", demo=True)
    with served(Settings(database_url=url)):
        return url
