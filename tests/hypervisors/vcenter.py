"""Runs a vCenter simulator for one test: the program in `vcsim`, built once and controlled by lines of JSON."""

import asyncio
import fcntl
import hashlib
import json
import os
import shutil
import subprocess
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from gateway.drivers.options import Secret
from gateway.drivers.vsphere.driver import Options, VsphereDriver
from gateway.drivers.vsphere.session import Session, Stub

_SOURCE = Path(__file__).parent / "vcsim" / "main.go"
_LIBRARY = Path("/usr/share/gocode")  # of Debian's package golang-github-vmware-govmomi-dev


def lacking() -> str | None:
    """Why the simulator cannot be built on this host; None if it can."""
    if shutil.which("go") is None:
        return "Go is not installed"
    if not (_LIBRARY / "src/github.com/vmware/govmomi/simulator").is_dir():
        return "the source of govmomi is not installed (golang-github-vmware-govmomi-dev)"
    return None


def program() -> Path:
    """The path of the program. Builds it if necessary, which takes 15 seconds; concurrent tests wait for one build."""
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "snapshot-gateway"
    cache.mkdir(parents=True, exist_ok=True)
    built = cache / f"vcsim-{hashlib.sha256(_SOURCE.read_bytes()).hexdigest()[:16]}"
    with (cache / "vcsim.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not built.exists():
            unfinished = built.with_suffix(".new")
            environment = os.environ | {
                "GO111MODULE": "off",
                "GOFLAGS": "",
                "GOPATH": str(_LIBRARY),
                "CGO_ENABLED": "0",
            }
            subprocess.run(["go", "build", "-o", unfinished, _SOURCE], env=environment, check=True)
            unfinished.rename(built)
    return built


class VCenter:
    """A running simulator, with the machines `on`, `off` and `suspended`, and a template."""

    user = "gateway@vsphere.local"
    password = "sesame"

    def __init__(self, process: "subprocess.Popen[str]", ca_file: Path) -> None:
        self._process = process
        self.ca_file = ca_file
        self.address: str = self._answer()

    def order(self, do: str, **details: Any) -> Any:
        """Sends an order and returns its result. For the orders see the type `order` in `vcsim/main.go`."""
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps({"do": do, **details}) + "\n")
        self._process.stdin.flush()
        answer = self._answer()
        assert not (isinstance(answer, dict) and "error" in answer), answer
        return answer

    def rule(self, method: str, how: str, **details: Any) -> None:
        """Adds a fault for the next call of a method. For `how` see `ServeHTTP` and `perform` in `vcsim/main.go`."""
        self.order("rule", on=method, how=how, **details)

    def calls(self, *methods: str) -> list[str]:
        """The calls since the last `calls`, of these methods or of all."""
        return [call for call in self.order("calls") or [] if call in methods or not methods]

    async def called(self, method: str, times: int) -> list[str]:
        """Waits until a method was called this number of times. The calls since the last `calls`."""
        found: list[str] = []
        async with asyncio.timeout(20):
            while found.count(method) < times:
                found += self.calls()
                await asyncio.sleep(0.01)
        return found

    def options(self, **others: Any) -> Options:
        password = Secret(self.password)
        defaults = {"address": self.address, "user": self.user, "password": password, "ca_file": str(self.ca_file)}
        return Options(**{**defaults, "timeout": 10.0, **others})

    def driver(self, **others: Any) -> VsphereDriver:
        """A new driver, which has not logged in."""
        return VsphereDriver(self.options(**others), concurrency=3, settle=0.05)

    def stub(self, **others: Any) -> Stub:
        """A connection pool for another client's login."""
        host, _, port = self.address.removeprefix("https://").partition(":")
        options = {"ca_file": str(self.ca_file), "thumbprint": None, "timeout": 10.0, "connections": 1}
        return Stub(host, int(port), **options | others)

    @contextmanager
    def session(self, stub: Stub | None = None) -> Iterator[Session]:
        """Another client's login."""
        session = Session(lambda: stub or self.stub(), self.user, self.password)
        try:
            yield session
        finally:
            session.log_out()

    def _answer(self) -> Any:
        assert self._process.stdout is not None
        return json.loads(self._process.stdout.readline())


@contextmanager
def vcenter(directory: Path) -> Iterator[VCenter]:
    """A simulator that runs until the end of the block."""
    ca_file = directory / "ca.pem"
    pipes: dict[str, Any] = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
    environment = os.environ | {"TMPDIR": str(directory)}  # the directory of its datastores
    with subprocess.Popen([program(), ca_file], env=environment, **pipes) as process:
        try:
            yield VCenter(process, ca_file)
        finally:
            assert process.stdin is not None
            process.stdin.close()  # the program ends with its standard input


async def named(driver: VsphereDriver, name: str) -> str:
    """The ref of a machine."""
    return next(machine.ref for machine in await driver.machines() if machine.name == name)


def running(driver: VsphereDriver, test: Callable[[VsphereDriver], Awaitable[None]]) -> None:
    """Runs a test of a driver, and closes the driver."""

    async def inside() -> None:
        try:
            await test(driver)
        finally:
            await driver.close()

    asyncio.run(inside())
