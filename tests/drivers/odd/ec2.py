"""A fleet with odd machines on a cloud with EC2's API whose responses are made here, as XML."""

import re
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from gateway.drivers.base import Driver
from gateway.drivers.ec2.driver import Options, make
from gateway.drivers.options import Secret
from tests.drivers.odd_fleet.fleets import NEW_SNAPSHOT, SNAPSHOTS, Fleet, Oddity, machine_name
from tests.drivers.odd_fleet.serving import served

PART = "ec2"

_LONG = "x" * 2**20
_CHANGED = "\ufffd"
_DEEP = "<a>" * 2_000 + "</a>" * 2_000
_ATTACHED, _CREATED = "2026-01-01T00:00:00.000Z", "2026-01-02T00:00:00.000Z"
_STATE = "<instanceState><code>16</code><name>running</name></instanceState>"
_TAG = "<value>{name}</value>"

Change = Callable[[str], str]


def _text(old: str, new: str) -> Change:
    return lambda xml: xml.replace(old, new)


def _name(new: str) -> Change:
    return lambda xml: re.sub("<value>.*</value>", lambda _: new, xml)


# The change of the XML of the machine, or of its first image, and what is expected.
_MACHINES: dict[str, tuple[Change, Oddity]] = {
    "an attach time in milliseconds": (_text(_ATTACHED, "1700000000000"), Oddity("The creation time '1700000000000'")),
    "an attach time in the year 1": (_text(_ATTACHED, "0001-01-01T00:00:00Z"), Oddity("The creation time 0001-01-01T")),
    "an attach time without an offset": (_text(_ATTACHED, "2026-01-01T00:00:00"), Oddity(None)),
    # github.com/boto/boto3/issues/910: OpenStack's API of EC2
    "an empty launch time": (_text("<networkInterfaceSet>", "<launchTime/><networkInterfaceSet>"), Oddity(None)),
    "a device index that is a text": (_text("<deviceIndex>0<", "<deviceIndex>first<"), Oddity(None)),
    "no state": (_text(_STATE, ""), Oddity("The power state is missing or malformed.")),
    "a state without a name": (_text("<name>running</name>", ""), Oddity("The power state is missing or malformed.")),
    "two states": (_text("<name>running", "<name>a</name><name>running"), Oddity("The power state is missing or malf")),
    "a state code that is a text": (_text("<code>16<", "<code>on<"), Oddity(None)),
    "a name of 1 MB": (_name(f"<value>{_LONG}</value>"), Oddity("The name was changed", name=_LONG[:1_024])),
    "a name with control characters": (_name("<value>a\1&#2;b</value>"), Oddity(None, name=f"a{_CHANGED * 2}b")),
    "a name with half a surrogate": (
        _name("<value>a\ud800&#xD800;b</value>"),
        Oddity(None, name=f"a{_CHANGED * 4}b"),
    ),
    "a name of depth 2,000": (_name(f"<value>{_DEEP}</value>"), Oddity(None, name="{ref}")),
    "two names": (_name("<value>a</value><value>b</value>"), Oddity("The name is not text: list.", name="{ref}")),
    "a name tag without a value": (_name(""), Oddity(None, name="{ref}")),
    "tags that are a text": (
        lambda xml: re.sub("<tagSet>.*</tagSet>", "<tagSet>web</tagSet>", xml),
        Oddity(None, name="{ref}"),
    ),
    "no id": (
        lambda xml: re.sub("<instanceId>.*</instanceId>", "", xml),
        Oddity("The provider's identifier None is not valid.", identified=False),
    ),
    "an id of 2 kB": (
        _text("</instanceId>", f"{_LONG[:2_048]}</instanceId>"),
        Oddity("The provider's identifier 'i-", identified=False),
    ),
}  # fmt: skip
_IMAGES: dict[str, tuple[Change, Oddity]] = {
    "an image without a time": (
        _text(f"<creationDate>{_CREATED}</creationDate>", ""),
        Oddity("The creation time is missing."),
    ),
    # github.com/apache/libcloud/issues/1700
    "an image with an empty time": (_text(_CREATED, ""), Oddity("The creation time '' is not a time of ISO 8601.")),
    "an image with a time in milliseconds": (_text(_CREATED, "1700000000000"), Oddity("The creation time '17000")),
    "an image with a time without an offset": (_text(_CREATED, "2026-01-02T00:00:00"), Oddity(None)),
    "an image without a name": (
        _text("<name>first</name>", "<name/>"),
        Oddity(None, snapshots=("ami-first", "second")),
    ),
    "an image without a state": (_text("<imageState>available</imageState>", ""), Oddity("The state is missing")),
    "an image with a name of 1 MB": (
        _text("<name>first</name>", f"<name>{_LONG}</name>"),
        Oddity("The name was changed", snapshots=("second", _LONG[:1_024])),
    ),
    "an image with odd disks": (
        _text("<ebs/>", "a</item><item><ebs>b</ebs></item><item><ebs><volumeSize>c</volumeSize></ebs>"),
        Oddity(None),
    ),
    "an image without an id": (
        lambda xml: re.sub("<imageId>.*</imageId>", "", xml),
        Oddity("A snapshot was left out."),
    ),
}  # fmt: skip
ODDITIES: Mapping[str, Oddity] = {name: oddity for name, (_, oddity) in (_MACHINES | _IMAGES).items()}


def lacking() -> str | None:
    return None


class _Cloud:
    def __init__(self, size: int) -> None:
        self._size = size
        self._odd: Mapping[int, str] = {}
        self._removed: int | None = None
        self._extended: int | None = None
        self.port = 0

    def ref(self, number: int) -> str:
        return f"i-{number:04}"

    def driver(self, odd: Mapping[int, str], removed: int | None, extended: int | None) -> Driver:
        self._odd, self._removed, self._extended = odd, removed, extended
        address, secret = f"http://127.0.0.1:{self.port}", Secret("secret")
        options = Options(region="eu-central-1", address=address, access_key_id="key", secret_access_key=secret)
        return make("fleet", options, 2)

    def respond(self, form: str) -> str:
        action = re.findall("Action=([A-Za-z]+)", form)[0]
        chosen = [int(number) for number in re.findall("=i-([0-9]+)", form)] or range(self._size)
        machines = [number for number in chosen if number != self._removed]
        if action == "DescribeInstances":
            items = "".join(
                f"<item><instancesSet>{self._instance(number)}</instancesSet></item>" for number in machines
            )
            content = f"<reservationSet>{items}</reservationSet>"
        elif action == "DescribeImages":
            content = f"<imagesSet>{''.join(map(self._images, machines))}</imagesSet>"
        else:
            content = "<snapshotSet/>"
        return f'<{action}Response xmlns="http://ec2.amazonaws.com/doc/2016-11-15/">{content}</{action}Response>'

    def _instance(self, number: int) -> str:
        change, _ = _MACHINES.get(self._odd.get(number, ""), (str, None))
        attachment = f"<attachTime>{_ATTACHED}</attachTime><deviceIndex>0</deviceIndex>"
        return change(
            f"<item><instanceId>{self.ref(number)}</instanceId>{_STATE}<networkInterfaceSet><item><attachment>{attachment}"
            "</attachment></item></networkInterfaceSet>"
            f"<tagSet><item><key>Name</key><value>{machine_name(number)}</value></item></tagSet></item>"
        )

    def _images(self, number: int) -> str:
        change, _ = _IMAGES.get(self._odd.get(number, ""), (str, None))
        names = (*SNAPSHOTS, NEW_SNAPSHOT) if number == self._extended else SNAPSHOTS
        first, *others = (
            f"<item><imageId>ami-{name}</imageId><imageState>available</imageState><name>{name}</name>"
            f"<sourceInstanceId>{self.ref(number)}</sourceInstanceId><creationDate>{_CREATED}</creationDate>"
            "<blockDeviceMapping><item><ebs/></item></blockDeviceMapping></item>"
            for name in names
        )
        return "".join([change(first), *others])


@contextmanager
def fleet(directory: Path, size: int) -> Iterator[Fleet]:
    """Instances of one account."""
    cloud = _Cloud(size)
    with served(cloud.respond) as cloud.port:
        yield cloud
