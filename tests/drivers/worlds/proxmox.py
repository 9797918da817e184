"""The proxmox driver on a simulated Proxmox VE cluster with fault injection."""

import atexit
import json
import shutil
import subprocess
import sys
import tempfile
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import cache
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


@cache
def _shared() -> Cluster:
    """The cluster of all tests of this process: it takes half a second to start."""
    directory = tempfile.mkdtemp(prefix="gateway-proxmox-")
    argv = [sys.executable, "-m", "tests.hypervisors.proxmox", directory]
    process = subprocess.Popen(argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    atexit.register(shutil.rmtree, directory)
    atexit.register(process.communicate)  # it ends when its standard input is closed, however this process ends
    return Cluster(process)


def cluster() -> Cluster:
    """A cluster in its initial state, until the next call."""
    shared = _shared()
    shared.do("reset")
    return shared


@asynccontextmanager
async def world(directory: Path) -> AsyncIterator[Subject]:
    yield Subject(cluster().driver(), "100")
