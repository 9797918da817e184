"""The qcow2 driver on a folder of images: one that is free, one of a machine that runs, and what is none of its."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

from gateway.drivers.qcow2 import Options, make
from tests.drivers import images
from tests.drivers.subject import Subject

PART = "qcow2"


def lacking() -> str | None:
    return images.lacking()


@asynccontextmanager
async def world(directory: Path) -> AsyncIterator[Subject]:
    folder = directory / "images"
    folder.mkdir()
    images.image(folder / "vm.qcow2")
    images.image(folder / "foreign")
    images.image(directory / "foreign.qcow2")
    with images.opened(images.image(folder / "running.qcow2")):
        yield Subject(make("p", Options(directory=str(folder)), 2), "vm.qcow2", descriptions=False)
