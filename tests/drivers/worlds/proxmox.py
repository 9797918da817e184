"""A cluster of stand-ins for Proxmox VE, which can be told what to suffer."""

import json
import subprocess
import sys
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from gateway.drivers.options import Secret
from gateway.drivers.proxmox.driver import Options, ProxmoxDriver, make
from tests.drivers.subject import Subject

PART = "proxmox"


def lacking() -> str | None:
    return None if find_spec("fakepve") else "fakepve is not installed"


class Cluster:
    """`do` has any method of the stand-in called: those of fakepve's FakePve, and those of tests.hypervisors."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self._process = process
        hello = self._hear()
        self.address = f"https://127.0.0.1:{hello['port']}"
        self.ca_file: str = hello["ca_file"]

    def do(self, name: str, *arguments: Any, **options: Any) -> Any:
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps([name, arguments, options]) + "\n")
        self._process.stdin.flush()
        return self._hear()

    def _hear(self) -> Any:
        assert self._process.stdout is not None
        return json.loads(self._process.stdout.readline())

    def driver(self, **options: Any) -> ProxmoxDriver:
        given = {"address": self.address, "user": "gateway@pve", "ca_file": self.ca_file, "timeout": 20.0, **options}
        if "token_name" not in given:
            given.setdefault("password", Secret("secret"))
        return make("pve", Options(**given), 2)


@contextmanager
def cluster(directory: Path) -> Iterator[Cluster]:
    """A cluster for as long as the block lasts."""
    command = [sys.executable, "-m", "tests.hypervisors.proxmox", str(directory)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        try:
            yield Cluster(process)
        finally:
            process.kill()


@asynccontextmanager
async def world(directory: Path) -> AsyncIterator[Subject]:
    with cluster(directory) as made:
        yield Subject(made.driver(), "100")
