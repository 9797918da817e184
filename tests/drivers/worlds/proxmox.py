"""The proxmox driver on a simulated Proxmox VE cluster with fault injection."""

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
    """A simulated cluster. `do` calls its methods: those of fakepve's FakePve and of tests.hypervisors.proxmox."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self._process = process
        hello = self._receive()
        self.address = f"https://127.0.0.1:{hello['port']}"
        self.ca_file: str = hello["ca_file"]

    def do(self, name: str, *arguments: Any, **options: Any) -> Any:
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps([name, arguments, options]) + "\n")
        self._process.stdin.flush()
        return self._receive()

    def _receive(self) -> Any:
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
    argv = [sys.executable, "-m", "tests.hypervisors.proxmox", str(directory)]
    with subprocess.Popen(argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        try:
            yield Cluster(process)
        finally:
            process.kill()


@asynccontextmanager
async def world(directory: Path) -> AsyncIterator[Subject]:
    with cluster(directory) as made:
        yield Subject(made.driver(), "100")
