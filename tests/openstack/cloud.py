"""Helpers with the admin's rights: they create servers and images, and read the contents of images."""

import functools
import os
import struct
import subprocess
from pathlib import Path
from typing import Any

import openstack

from tests.hypervisors.guest import sector

URL = os.environ.get("GATEWAY_TEST_OPENSTACK", "")  # set by `make openstack-test`, which starts OpenStack

_DISK = 1 << 20
# One partition in use: Glance rejects a disk whose first sector is not a valid partition table.
_PARTITION = struct.pack("<B3sB3sII", 0x80, b"\1\1\0", 0x83, b"\1\1\0", 1, 2_000)


@functools.cache
def admin() -> Any:
    """The admin's connection."""
    return openstack.connect(
        auth_url=URL,
        username="admin",
        password="pw",
        project_name="admin",
        user_domain_id="default",
        project_domain_id="default",
        region_name="RegionOne",
        compute_api_version="2.90",
    )


def make_server(name: str, directory: Path, image_id: str | None = None) -> str:
    """Starts a server that runs the counting guest, or an image of it. Returns its id once it is active."""
    cloud = admin()
    if image_id is None:
        image_id = (next(cloud.image.images(name="guest"), None) or _upload(directory)).id
    flavor = next((flavor for flavor in cloud.compute.flavors() if flavor.name == "small"), None)
    if flavor is None:
        flavor = cloud.compute.create_flavor(name="small", ram=64, vcpus=1, disk=1)
    server = cloud.compute.create_server(name=name, image_id=image_id, flavor_id=flavor.id, networks="none")
    ref: str = cloud.compute.wait_for_server(server, wait=120, interval=0.5).id
    return ref


def delete_server(ref: str) -> None:
    """Deletes a server and the images of it."""
    cloud = admin()
    for image in cloud.image.images():
        if image.instance_uuid == ref:
            cloud.image.delete_image(image.id)
    server = cloud.compute.get_server(ref)
    cloud.compute.delete_server(server, force=True)
    cloud.compute.wait_for_delete(server, wait=120, interval=0.5)


def make_image(server: str, name: str) -> dict[str, Any]:
    """Creates an image of a server, as another client. Returns it once it is complete."""
    image = admin().compute.create_server_image(server, name=name, wait=True)
    found: dict[str, Any] = admin().image.get(f"/images/{image.id}").json()
    return found


def has_image(ref: str) -> bool:
    """Whether Glance has the image."""
    return ref in {image.id for image in admin().image.images()}


def disk_count(image_id: str, directory: Path) -> int:
    """The guest's count on the disk that the image contains."""
    file, raw = directory / f"{image_id}.qcow2", directory / f"{image_id}.raw"
    admin().image.download_image(image_id, output=str(file))
    subprocess.run(["qemu-img", "convert", "-O", "raw", file, raw], check=True)
    with raw.open("rb") as disk:
        disk.seek(512)
        return int.from_bytes(disk.read(4), "little")


def _upload(directory: Path) -> Any:
    raw, file = directory / "guest.raw", directory / "guest.qcow2"
    boot = sector()
    raw.write_bytes((boot[:446] + _PARTITION.ljust(64, b"\0") + boot[510:]).ljust(_DISK, b"\0"))
    subprocess.run(["qemu-img", "convert", "-f", "raw", "-O", "qcow2", raw, file], check=True)
    with file.open("rb") as data:
        return admin().image.create_image(
            "guest", data=data, disk_format="qcow2", container_format="bare", allow_duplicates=True, wait=True
        )
