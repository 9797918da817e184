"""The ec2 driver on bad days: each thing that EC2 and the way to it can say has the class that callers act on."""

import asyncio
import socket
from collections.abc import Iterator
from typing import Any

import pytest

from gateway.drivers.base import Recovery
from gateway.drivers.ec2.driver import Ec2Driver, Options, make
from gateway.drivers.options import Secret, read_options
from gateway.errors import (
    OutcomeUnknown,
    ProviderBusy,
    ProviderDenied,
    ProviderError,
    ProviderFull,
    ProviderMissing,
    ProviderRefused,
    ProviderUnavailable,
)
from tests.hypervisors.ec2 import REGION, alter, refuse, say
from tests.hypervisors.ec2_lab import Lab, ec2_lab

CODES: list[tuple[str, type[ProviderError], str]] = [
    *(
        (code, ProviderDenied, "the provider does not accept the gateway's credentials")
        for code in ("AuthFailure", "ExpiredToken", "InvalidClientTokenId", "RequestExpired", "SignatureDoesNotMatch")
    ),
    ("UnauthorizedOperation", ProviderDenied, "the gateway's credentials lack the right to do this"),
    ("OptInRequired", ProviderDenied, "the gateway's credentials lack the right to do this"),
    ("InvalidInstanceID.NotFound", ProviderMissing, "the provider has no such instance or image"),
    ("InvalidInstanceID.Malformed", ProviderMissing, "the provider has no such instance or image"),
    ("RequestLimitExceeded", ProviderUnavailable, "the provider is asked too much at present"),
    ("IncorrectInstanceState", ProviderBusy, "the provider is doing other work on this instance"),
    ("PendingSnapshotLimitExceeded", ProviderBusy, "the provider is doing other work on this instance"),
    ("SnapshotCreationPerVolumeRateExceeded", ProviderBusy, "the provider is doing other work on this instance"),
    ("SnapshotLimitExceeded", ProviderFull, "a quota of the account is reached"),
    ("AMILimitExceeded", ProviderFull, "a quota of the account is reached"),
    ("InvalidParameterValue", ProviderRefused, "the provider refused"),
]


@pytest.fixture
def lab() -> Iterator[Lab]:
    with ec2_lab() as made:
        yield made


def caught(lab: Lab, driver: Ec2Driver, error: type[ProviderError]) -> ProviderError:
    """What asking for machines raises."""
    try:
        with pytest.raises(ProviderError) as raised:
            lab.run(driver.machines())
    finally:
        lab.run(driver.close())
    assert type(raised.value) is error
    return raised.value


def test_what_codes_mean(lab: Lab) -> None:
    for code, error, message in CODES:
        for http in (400, 503) if code == "RequestLimitExceeded" else (400,):
            lab.cloud.on("CreateImage", refuse(code, "in its words", http))
            with pytest.raises(ProviderError) as raised:
                lab.create()
            assert (type(raised.value), raised.value.message) == (error, message)
            assert raised.value.provider_message == f"in its words ({code})"
        if error is not ProviderUnavailable:
            lab.cloud.on("DescribeInstances", refuse(code))
            with pytest.raises(error):
                lab.run(lab.driver.machines())
    assert (lab.cloud.images(), lab.recover()) == ([], Recovery.NOT_BEGUN)


def test_what_is_asked_is_asked_again_and_what_is_told_is_not(lab: Lab) -> None:
    for fault in (refuse("RequestLimitExceeded", http=503), refuse("InternalError", http=500)):
        lab.cloud.on("DescribeInstances", fault, times=2)
        assert [seen.ref for seen in lab.run(lab.driver.machines())] == [lab.machine]
        lab.cloud.on("DescribeInstances", fault, times=3)
        with pytest.raises(ProviderUnavailable):
            lab.run(lab.driver.health())
    lab.cloud.on("CreateImage", refuse("InternalError", "an error has occurred", 500))
    with pytest.raises(OutcomeUnknown) as unknown:
        lab.create()
    assert unknown.value.provider_message == "an error has occurred (InternalError)"
    assert lab.cloud.told == ["CreateImage"]


@pytest.mark.parametrize(
    ("body", "http"),
    [
        ("<html><p>Bad Gateway", 502),
        ("<html><p>", 200),
        ("", 200),
        ("<DescribeInstancesResponse/>", 200),
        ("<DescribeInstancesResponse><reservationSet><item/></reservationSet></DescribeInstancesResponse>", 200),
    ],
)
def test_nonsense(lab: Lab, body: str, http: int) -> None:
    lab.cloud.on("DescribeInstances", say(body, http), times=3)
    assert caught(lab, lab.driver, ProviderUnavailable).provider_message in {None, "Bad Gateway (502)"}
    lab.cloud._faults.clear()
    lab.cloud.on("CreateImage", say(body, http))
    with pytest.raises(OutcomeUnknown):
        lab.create()


def test_an_image_without_a_sensible_time(lab: Lab) -> None:
    lab.create()
    lab.cloud.on("DescribeImages", alter(("<creationDate>", "<creationDate>x")))
    with pytest.raises(ProviderUnavailable, match="the provider's answer makes no sense"):
        lab.snapshots()


def test_nobody_listens(lab: Lab) -> None:
    ref = lab.create().ref
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))  # and does not listen
        driver = lab.cloud.driver(address=f"http://127.0.0.1:{unused.getsockname()[1]}")
        assert caught(lab, driver, ProviderUnavailable).message == "the provider cannot be reached"
    lab.cloud.on("DescribeSnapshots", alter())
    lab.cloud.on("DescribeSnapshots", lab.cloud.vanish)  # so that what is told next reaches nobody
    with pytest.raises(ProviderUnavailable, match="the provider cannot be reached"):
        lab.delete(ref)
    assert lab.cloud.images() == [ref]


def test_no_answer_in_time(lab: Lab) -> None:
    for action in ("DescribeInstances", "CreateImage"):
        lab.cloud.on(action, lab.cloud.hold, times=10)
    slow = lab.cloud.driver(timeout=0.2)
    with pytest.raises(OutcomeUnknown):
        lab.run(slow.api.tell("create_image", InstanceId=lab.machine, Name="before"))
    caught(lab, slow, ProviderUnavailable)


def test_no_credentials(lab: Lab) -> None:
    without = {"access_key_id": None, "secret_access_key": None}
    for options in ({}, {"profile": "nobody"}):
        driver = make("aws", lab.cloud.options(**without, **options), 1)
        error = caught(lab, driver, ProviderDenied)
        assert error.message == "the gateway cannot sign in to the provider as it is configured"
        assert error.provider_message in {
            "Unable to locate credentials",
            "The config profile (nobody) could not be found",
        }
    assert lab.cloud.forms == []


def test_secrets_are_kept(lab: Lab) -> None:
    driver = lab.cloud.driver(secret_access_key=Secret("hunter2"))
    lab.cloud.on("DescribeInstances", refuse("SignatureDoesNotMatch", "the signature does not match"))
    error = caught(lab, driver, ProviderDenied)
    assert "hunter2" not in f"{error!r} {error.provider_message} {driver!r} {lab.cloud.options()!r}"


@pytest.mark.parametrize(
    ("table", "fault"),
    [
        ({}, "needs 'region': Region of the instances, such as eu-central-1."),
        ({"region": "eu central"}, "has 'region' 'eu central', which must be letters, digits and hyphens"),
        (
            {"region": REGION, "access_key_id": "key"},
            "has one of 'access_key_id' and 'secret_access_key', and needs both or neither",
        ),
        (
            {"region": REGION, "access_key_id": "key", "secret_access_key": "s", "profile": "p"},
            "has both 'access_key_id' and 'profile', and needs one or neither",
        ),
        (
            {"region": REGION, "address": "cloud.example"},
            "has 'address' 'cloud.example', which must be https:// or http:// and a host",
        ),
        ({"region": REGION, "timeout": 0}, "has 'timeout' 0, which must be more than 0"),
    ],
)
def test_what_cannot_be_configured(table: dict[str, Any], fault: str) -> None:
    assert read_options(Options, table, lambda _, value: Secret(value)) == (None, [fault])


def test_making_one_does_nothing() -> None:
    table: dict[str, Any] = {"region": REGION, "profile": "nobody", "address": "https://cloud.invalid/services/compute"}
    options, faults = read_options(Options, table, lambda _, value: Secret(value))
    assert (faults, options) == ([], Options(**table))
    asyncio.run(make("aws", Options(**table), 1).close())
