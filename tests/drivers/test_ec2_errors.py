"""Errors of the ec2 driver: classification of EC2's codes and of connection failures, and invalid options."""

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
from tests.hypervisors.ec2 import REGION, alter, refuse, respond
from tests.hypervisors.ec2_lab import Lab, ec2_lab

CODES: list[tuple[str, type[ProviderError], str]] = [
    *(
        (code, ProviderDenied, "The provider does not accept the gateway's credentials.")
        for code in ("AuthFailure", "ExpiredToken", "InvalidClientTokenId", "RequestExpired", "SignatureDoesNotMatch")
    ),
    ("UnauthorizedOperation", ProviderDenied, "The gateway's credentials lack a permission that this call requires."),
    ("OptInRequired", ProviderDenied, "The gateway's credentials lack a permission that this call requires."),
    ("InvalidInstanceID.NotFound", ProviderMissing, "The provider has no such instance or image."),
    ("InvalidInstanceID.Malformed", ProviderMissing, "The provider has no such instance or image."),
    ("RequestLimitExceeded", ProviderUnavailable, "The provider is throttling the gateway's requests."),
    ("IncorrectInstanceState", ProviderBusy, "The provider is executing another task on this instance."),
    ("PendingSnapshotLimitExceeded", ProviderBusy, "The provider is executing another task on this instance."),
    ("SnapshotCreationPerVolumeRateExceeded", ProviderBusy, "The provider is executing another task on this instance."),
    ("SnapshotLimitExceeded", ProviderFull, "A quota of the account has been reached."),
    ("AMILimitExceeded", ProviderFull, "A quota of the account has been reached."),
    ("InvalidParameterValue", ProviderRefused, "The provider refused the request."),
]


@pytest.fixture
def lab() -> Iterator[Lab]:
    with ec2_lab() as made:
        yield made


def machines_error(lab: Lab, driver: Ec2Driver, error: type[ProviderError]) -> ProviderError:
    """The error that listing machines raises. It must have the type `error`. Closes the driver."""
    try:
        with pytest.raises(ProviderError) as raised:
            lab.run(driver.machines())
    finally:
        lab.run(driver.close())
    assert type(raised.value) is error
    return raised.value


def test_error_codes(lab: Lab) -> None:
    for code, error, message in CODES:
        for http in (400, 503) if code == "RequestLimitExceeded" else (400,):
            lab.cloud.on("CreateImage", refuse(code, "message of EC2", http))
            with pytest.raises(ProviderError) as raised:
                lab.create()
            assert (type(raised.value), raised.value.message) == (error, message)
            assert raised.value.provider_message == f"message of EC2 ({code})"
        if error is not ProviderUnavailable:
            lab.cloud.on("DescribeInstances", refuse(code))
            with pytest.raises(error):
                lab.run(lab.driver.machines())
    assert (lab.cloud.images(), lab.recover()) == ([], Recovery.NOT_STARTED)


def test_only_reads_are_retried(lab: Lab) -> None:
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
    assert lab.cloud.writes == ["CreateImage"]


@pytest.mark.parametrize(
    ("body", "http"),
    [
        ("<html><p>Bad Gateway", 502),
        ("<html><p>", 200),
        ("", 200),
        ("<DescribeInstancesResponse/>", 200),
    ],
)
def test_malformed_responses(lab: Lab, body: str, http: int) -> None:
    lab.cloud.on("DescribeInstances", respond(body, http), times=3)
    assert machines_error(lab, lab.driver, ProviderUnavailable).provider_message in {None, "Bad Gateway (502)"}
    lab.cloud.faults.clear()
    lab.cloud.on("CreateImage", respond(body, http))
    with pytest.raises(OutcomeUnknown):
        lab.create()


def test_a_refused_connection(lab: Lab) -> None:
    ref = lab.create().ref
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))  # and does not listen
        driver = lab.cloud.driver(address=f"http://127.0.0.1:{unused.getsockname()[1]}")
        assert machines_error(lab, driver, ProviderUnavailable).message == "The provider cannot be reached."
    lab.cloud.on("DescribeSnapshots", alter())
    lab.cloud.on("DescribeSnapshots", lab.cloud.vanish)  # so that the next write is not delivered
    with pytest.raises(ProviderUnavailable, match=r"The provider cannot be reached\."):
        lab.delete(ref)
    assert lab.cloud.images() == [ref]


def test_timeouts(lab: Lab) -> None:
    for action in ("DescribeInstances", "CreateImage"):
        lab.cloud.on(action, lab.cloud.hold, times=10)
    slow = lab.cloud.driver(timeout=0.2)
    with pytest.raises(OutcomeUnknown):
        lab.run(slow.api.write("create_image", InstanceId=lab.machine, Name="before"))
    machines_error(lab, slow, ProviderUnavailable)


def test_missing_credentials(lab: Lab) -> None:
    without = {"access_key_id": None, "secret_access_key": None}
    for options in ({}, {"profile": "missing"}):
        driver = make("aws", lab.cloud.options(**without, **options), 1)
        error = machines_error(lab, driver, ProviderDenied)
        assert (
            error.message == "The gateway cannot sign in to the provider. Check the credential options of the provider."
        )
        assert error.provider_message in {
            "Unable to locate credentials",
            "The config profile (missing) could not be found",
        }
    assert lab.cloud.forms == []


def test_errors_do_not_contain_secrets(lab: Lab) -> None:
    driver = lab.cloud.driver(secret_access_key=Secret("hunter2"))
    lab.cloud.on("DescribeInstances", refuse("SignatureDoesNotMatch", "the signature does not match"))
    error = machines_error(lab, driver, ProviderDenied)
    assert "hunter2" not in f"{error!r} {error.provider_message} {driver!r} {lab.cloud.options()!r}"


@pytest.mark.parametrize(
    ("table", "fault"),
    [
        ({}, "Option 'region' is required: Region of the instances, such as eu-central-1."),
        ({"region": "eu central"}, "Option 'region' must consist of letters, digits and hyphens, not 'eu central'."),
        (
            {"region": REGION, "access_key_id": "key"},
            "Options 'access_key_id' and 'secret_access_key' must be set together.",
        ),
        (
            {"region": REGION, "access_key_id": "key", "secret_access_key": "s", "profile": "p"},
            "Options 'access_key_id' and 'profile' are mutually exclusive. Remove one of them.",
        ),
        (
            {"region": REGION, "address": "cloud.example"},
            "Option 'address' must be an https:// or http:// URL with a host, not 'cloud.example'.",
        ),
        ({"region": REGION, "timeout": 0}, "Option 'timeout' must be greater than 0, not 0."),
    ],
)
def test_invalid_options(table: dict[str, Any], fault: str) -> None:
    assert read_options(Options, table, lambda _, value: Secret(value)) == (None, [fault])


def test_making_a_driver_does_not_connect() -> None:
    table: dict[str, Any] = {
        "region": REGION,
        "profile": "missing",
        "address": "https://cloud.invalid/services/compute",
    }
    options, faults = read_options(Options, table, lambda _, value: Secret(value))
    assert (faults, options) == ([], Options(**table))
    asyncio.run(make("aws", Options(**table), 1).close())
