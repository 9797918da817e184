"""Many machines and snapshots on a cloud with EC2's API whose responses are made here, as XML."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import parse_qsl

from gateway.drivers.ec2.driver import Options, make
from gateway.drivers.ec2.parsing import TOKEN
from gateway.drivers.options import Secret
from gateway.models import MachineKind
from tests.drivers.loop_time.worlds import LargeWorld
from tests.drivers.odd_fleet.serving import served

PART = "ec2"

_ANSWER = '<{0}Response xmlns="http://ec2.amazonaws.com/doc/2016-11-15/">{1}</{0}Response>'
_LISTS = {"DescribeInstances": "reservationSet", "DescribeImages": "imagesSet", "DescribeSnapshots": "snapshotSet"}
_CREATED = "2026-01-02T00:00:00.000Z"


def lacking() -> str | None:
    return None


@dataclass(frozen=True, slots=True)
class _Item:
    """An item of a listing, and its values by the names of EC2's filters."""

    xml: str
    values: dict[str, str] = field(default_factory=dict)


def _instance(ref: str) -> _Item:
    state = "<instanceState><code>16</code><name>running</name></instanceState>"
    tags = f"<tagSet><item><key>Name</key><value>name of {ref}</value></item></tagSet>"
    instance = f"<item><instanceId>{ref}</instanceId>{state}{tags}</item>"
    return _Item(f"<item><instancesSet>{instance}</instancesSet></item>", {"instance-id": ref})


def _image(number: int, name: str, token: str) -> _Item:
    tags = f"<tagSet><item><key>{TOKEN}</key><value>{token}</value></item></tagSet>" if token else ""
    disk = f"<item><ebs><snapshotId>snap-{number}</snapshotId></ebs></item>"
    xml = (
        f"<item><imageId>ami-{number}</imageId><imageState>available</imageState><name>{name}</name>{tags}"
        f"<sourceInstanceId>i-0</sourceInstanceId><creationDate>{_CREATED}</creationDate>"
        f"<blockDeviceMapping>{disk}</blockDeviceMapping></item>"
    )
    values = {"image-id": f"ami-{number}", "name": name, "source-instance-id": "i-0", f"tag:{TOKEN}": token}
    return _Item(xml, values)


def _ebs_snapshot(number: int) -> _Item:
    xml = (
        f"<item><snapshotId>snap-{number}</snapshotId><status>completed</status><progress>100%</progress>"
        "<fullSnapshotSizeInBytes>4096</fullSnapshotSizeInBytes></item>"
    )
    description = f"Created by CreateImage(i-0) for ami-{number}"
    return _Item(xml, {"snapshot-id": f"snap-{number}", "description": description})


class _Cloud:
    """A cloud whose instance i-0 has all images. It executes each request at once."""

    def __init__(self, machines: int, snapshots: int) -> None:
        self._images = {f"ami-{number}": _image(number, f"image {number}", "") for number in range(snapshots)}
        self._ebs_snapshots = {f"snap-{number}": _ebs_snapshot(number) for number in range(snapshots)}
        self._instances = {f"i-{number}": _instance(f"i-{number}") for number in range(machines)}

    def respond(self, body: str) -> str:
        form = dict(parse_qsl(body, keep_blank_values=True))
        action = form["Action"]
        return _ANSWER.format(action, self._list(action, form) if action in _LISTS else self._change(action, form))

    def _list(self, action: str, form: dict[str, str]) -> str:
        items = {
            "DescribeInstances": self._instances,
            "DescribeImages": self._images,
            "DescribeSnapshots": self._ebs_snapshots,
        }[action]
        filters = _filters(form)
        found = [item for item in items.values() if all(item.values.get(name) in filters[name] for name in filters)]
        start, size = int(form.get("NextToken", 0)), int(form["MaxResults"])
        next_token = f"<nextToken>{start + size}</nextToken>" if start + size < len(found) else ""
        content = "".join(item.xml for item in found[start : start + size])
        return f"<{_LISTS[action]}>{content}</{_LISTS[action]}>{next_token}"

    def _change(self, action: str, form: dict[str, str]) -> str:
        if action == "CreateImage":
            tags = {
                form[key]: form[key.removesuffix("Key") + "Value"]
                for key in form
                if key.endswith(".Key") and ".1." in key
            }
            number = 1_000_000 + len(self._images)
            self._images[f"ami-{number}"] = _image(number, form["Name"], tags.get(TOKEN, ""))
            self._ebs_snapshots[f"snap-{number}"] = _ebs_snapshot(number)
            return f"<imageId>ami-{number}</imageId>"
        if action == "DeregisterImage":
            del self._images[form["ImageId"]]
        if action == "DeleteSnapshot":
            del self._ebs_snapshots[form["SnapshotId"]]
        return "<return>true</return>"


def _filters(form: dict[str, str]) -> dict[str, set[str]]:
    """The filters of a call that the cloud knows: the values by name."""
    filters: dict[str, set[str]] = {}
    for key, value in form.items():
        prefix, _, _ = key.partition(".Value.")
        if key.startswith("Filter.") and prefix != key and form[f"{prefix}.Name"] != "instance-state-name":
            filters.setdefault(form[f"{prefix}.Name"], set()).add(value.rstrip("*"))
    return filters


@contextmanager
def world(directory: Path, machines: int, snapshots: int) -> Iterator[LargeWorld]:
    """The first instance has all images."""
    cloud = _Cloud(machines, snapshots)
    with served(cloud.respond) as port:
        address, secret = f"http://127.0.0.1:{port}", Secret("secret")
        options = Options(region="eu-central-1", address=address, access_key_id="key", secret_access_key=secret)
        driver = make("large", options, 2)
        driver.poll_interval = driver.visibility_timeout = 0.01
        yield LargeWorld(driver, "i-0", MachineKind.INSTANCE)
