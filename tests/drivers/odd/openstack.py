"""A fleet with odd machines on the test double of OpenStack."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from gateway.drivers.base import Driver
from tests.drivers.odd_fleet.fleets import NEW_SNAPSHOT, SNAPSHOTS, Fleet, Oddity, machine_name
from tests.hypervisors.openstack_double import Cloud, cloud

PART = "openstack"

_LONG = "x" * 2**20
_DEEP: dict[str, Any] = {}
for _ in range(400):
    _DEEP = {"a": _DEEP}
_NO_OBJECT = Oddity("The name is not text: dict.", name="{ref}")

# What the server, or its first image, has in place of the usual; and what is expected.
_MACHINES: dict[str, tuple[dict[str, Any], Oddity]] = {
    "a time in milliseconds": ({"created": 1_700_000_000_000}, Oddity("The creation time is not text: 1700000000000.")),
    "a time that is no time": ({"created": "yesterday"}, Oddity("The creation time 'yesterday' is not a time")),
    "a time in the year 9999": ({"created": "9999-12-31T23:59:59Z"}, Oddity("The creation time 9999-12-31T23:59:59")),
    "a time without an offset": ({"created": "2026-01-01T00:00:00"}, Oddity(None)),
    "no time": ({"created": None}, Oddity("The creation time is missing.")),
    "a name that is an object": ({"name": {"a": [1]}}, _NO_OBJECT),
    "a name of digits": ({"name": 7}, Oddity(None, name="7")),
    "a name of 1 MB": ({"name": _LONG}, Oddity("The name was changed", name=_LONG[:1_024])),
    "a name of depth 400": ({"name": _DEEP}, _NO_OBJECT),
    "a name with NUL and half a surrogate": (
        {"name": "a\0\ud800b"},
        Oddity("The name was changed", name="a\ufffd\ufffdb"),
    ),
    "a name with a control character": ({"name": "a\1b"}, Oddity(None, name="a\1b")),
    "a power state that is an object": ({"OS-EXT-STS:power_state": {}}, Oddity("The power state is malformed.")),
    "no power state": ({"OS-EXT-STS:power_state": None}, Oddity(None)),
    "a status that is a list": ({"status": ["ACTIVE"]}, Oddity(None)),
    "a flavor that is a text": ({"flavor": "small"}, Oddity("The flavor is missing or malformed.")),
    "metadata of depth 400": ({"metadata": _DEEP}, Oddity(None)),
    "volumes that are numbers": ({"os-extended-volumes:volumes_attached": [7]}, Oddity(None)),
    "no id": ({"id": None}, Oddity("The provider's identifier None is not valid.", identified=False)),
    "an id that is a number": ({"id": 7}, Oddity("The provider's identifier 7 is not valid.", identified=False)),
}  # fmt: skip
_IMAGES: dict[str, tuple[dict[str, Any], Oddity]] = {
    "an image without a time": ({"created_at": None}, Oddity("The creation time is missing.")),
    "an image with a time in milliseconds": ({"created_at": 1_700_000_000_000}, Oddity("The creation time is not")),
    "an image with a description that is a list": (
        {"snapshot_gateway_token": "{ref}", "snapshot_gateway_description": ["a"]},
        Oddity(None),
    ),
    "an image with half a surrogate": (
        {"name": "a\ud800"},
        Oddity("The name was changed", snapshots=("a\ufffd", "second")),
    ),
    "an image of a size that is a text": ({"size": "1 GB"}, Oddity("The size is not a number of bytes: '1 GB'.")),
    "an image of a size of 10^30": ({"size": 10**30}, Oddity("The size is not a number of bytes")),
    "an image with a status that is a list": ({"status": ["active"]}, Oddity("The state is missing or malformed.")),
    "an image with unknown parts": (
        {"size": 0, "block_device_mapping": "{"},
        Oddity("The list of the volume snapshots that it consists of is malformed."),
    ),
    # github.com/gophercloud/gophercloud/issues/30: of Cinder
    "an image with a time without an offset": ({"created_at": "2016-08-02T04:36:40.423862"}, Oddity(None)),
    # github.com/ContainX/openstack4j/issues/647
    "an image with properties that are objects": (
        {"locations": [{"url": "a", "metadata": {}}], "a": {"b": 1}},
        Oddity(None),
    ),
    "an image without an id": ({"id": None}, Oddity("A snapshot was left out.")),
}  # fmt: skip
ODDITIES: Mapping[str, Oddity] = {name: oddity for name, (_, oddity) in (_MACHINES | _IMAGES).items()}


def lacking() -> str | None:
    return None


class _Project:
    def __init__(self, cloud: Cloud, size: int) -> None:
        self._cloud = cloud
        self._refs = [cloud.boot(machine_name(number)) for number in range(size)]
        for ref in self._refs:
            for name in SNAPSHOTS:
                cloud.snap(ref, name)
        self._extra = cloud.snap(self._refs[-1], NEW_SNAPSHOT)
        self._servers, self._images = dict(cloud.servers), dict(cloud.images)

    def ref(self, number: int) -> str:
        return self._refs[number]

    def driver(self, odd: Mapping[int, str], removed: int | None, extended: int | None) -> Driver:
        self._cloud.servers, self._cloud.images = dict(self._servers), dict(self._images)
        if extended is None:
            del self._cloud.images[self._extra]
        if removed is not None:
            del self._cloud.servers[self.ref(removed)]
        for number, name in odd.items():
            ref = self.ref(number)
            first = next(row["id"] for row in self._images.values() if row["instance_uuid"] == ref)
            self._cloud.servers[ref] = self._servers[ref] | _MACHINES.get(name, ({}, None))[0]
            self._cloud.images[first] = self._images[first] | _IMAGES.get(name, ({}, None))[0]
        return self._cloud.driver()


@contextmanager
def fleet(directory: Path, size: int) -> Iterator[Fleet]:
    """Servers of one project."""
    with cloud() as made:
        yield _Project(made, size)
