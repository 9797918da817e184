"""The qcow2 driver on a directory with an unused image, an image in use, and a file that is not a machine."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

from gateway.drivers.qcow2.driver import Options, make
from tests.drivers import image_files
from tests.drivers.subject import Subject

PART = "qcow2"


def lacking() -> str | None:
    return image_files.lacking()


@asynccontextmanager
async def world(directory: Path) -> AsyncIterator[Subject]:
    folder = directory / "images"
    folder.mkdir()
    image_files.create_image(folder / "vm.qcow2")
    image_files.create_image(folder / "foreign")
    image_files.create_image(directory / "foreign.qcow2")
    with image_files.held_open(image_files.create_image(folder / "running.qcow2")):
        yield Subject(make("p", Options(directory=str(folder)), 2), "vm.qcow2", descriptions=False)
