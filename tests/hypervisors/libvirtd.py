"""A libvirtd of the test's own: unprivileged, on a socket in a directory of its own, with what it runs beneath it.

A small supervisor, under `tini` so that the dead are reaped at once, outlives the daemon, which can be killed and
started again while the guests run on. It kills them all when it is let go, also when the test's process has died.
"""

import os
import pwd
import shutil
import signal
import subprocess
import tempfile
import time
from importlib import import_module
from pathlib import Path
from typing import Any
from uuid import NAMESPACE_OID, uuid5

from tests.hypervisors.guest import LibvirtConnection, domain_xml, lines, write_image

_PROGRAMS = ("libvirtd", "virsh", "qemu-system-x86_64", "qemu-img", "qemu-io", "tini")
_MUCH = 10 << 20  # bytes of memory
_PATH = "/usr/sbin:/usr/bin:/sbin:/bin"

_SUPERVISOR = """
while read -r _; do (libvirtd --config libvirtd.conf --pid-file libvirtd.pid </dev/null &) done
for file in libvirtd.pid run/libvirt/qemu/run/*.pid; do kill -9 "$(cat "$file")"; done
rm -rf "$PWD"
"""


def lacking() -> str | None:
    """Why none can be started here."""
    missing = [program for program in _PROGRAMS if shutil.which(program, path=_PATH) is None]
    return f"{missing[0]} is not installed" if missing else None


def await_true(condition: Any, seconds: float = 60, every: float = 0.01) -> Any:
    """What `condition` returns as soon as that is true."""
    deadline = time.monotonic() + seconds
    while not (found := condition()):
        assert time.monotonic() < deadline, "it did not come true"
        time.sleep(every)
    return found


class Libvirtd:
    """The daemon and its guests. As root it drops to an unprivileged user."""

    def __init__(self) -> None:
        self.directory = Path(tempfile.mkdtemp(prefix="gw-"))  # short: it holds sockets
        for name in ("run", "conf/libvirt", "cache", "data"):
            (self.directory / name).mkdir(parents=True)
        (self.directory / "libvirtd.conf").write_text(
            f'unix_sock_dir = "{self.directory}/run"\nauth_unix_rw = "none"\n'
            f'log_outputs = "3:file:{self.directory}/log"\n'
        )
        (self.directory / "conf/libvirt/qemu.conf").write_text('stdio_handler = "file"\nsecurity_driver = "none"\n')
        user: dict[str, Any] = {}
        if os.geteuid() == 0:
            nobody = pwd.getpwnam("nobody")
            user = {"user": nobody.pw_uid, "group": nobody.pw_gid, "extra_groups": []}
        environment = {
            "PATH": _PATH,
            "LC_ALL": "C.UTF-8",
            "HOME": str(self.directory),
            **{f"XDG_{name}": f"{self.directory}/{place}" for name, place in _PLACES.items()},
        }
        self._user = user
        self.adopt(*self.directory.rglob("*"), self.directory)
        self.address = f"qemu+unix:///session?socket={self.directory}/run/libvirt-sock"
        self._supervisor = subprocess.Popen(
            ["tini", "-s", "--", "sh", "-c", _SUPERVISOR],
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            cwd=self.directory,
            env=environment,
            **user,
        )
        self.start()

    def adopt(self, *paths: Path) -> None:
        """Makes files the daemon's own."""
        if self._user:
            for path in paths:
                shutil.chown(path, self._user["user"], self._user["group"])

    # ---- the daemon

    def start(self) -> None:
        """Starts it, or starts it again; returns when it answers."""
        assert self._supervisor.stdin is not None
        self._supervisor.stdin.write(b"\n")
        self._supervisor.stdin.flush()
        await_true(lambda: self.virsh("uri", check=False))

    def kill(self) -> None:
        """SIGKILL to the daemon alone; returns when it is dead."""
        file = self.directory / "libvirtd.pid"
        kill(int(file.read_text()))
        file.unlink()

    def stop(self) -> None:
        """Ends the daemon and all guests, and leaves nothing."""
        pids = [int(file.read_text()) for file in self.directory.rglob("*.pid")]
        self._supervisor.communicate()
        await_true(lambda: not any(Path(f"/proc/{pid}").exists() for pid in pids))
        shutil.rmtree(self.directory, ignore_errors=True)

    # ---- guests

    def add(
        self, name: str, *, touched: int = 0, kind: str = "qcow2", running: bool = True, place: Path | None = None
    ) -> str:
        """Defines a guest, and starts it unless told otherwise; its UUID. A running one has said something."""
        image, uuid = (place or self.directory) / f"{name}.qcow2", str(uuid5(NAMESPACE_OID, name))
        write_image(image, touched, kind)
        self.define(domain_xml(name, uuid, image, self.directory / f"{name}.serial", touched + 2, kind))
        self.adopt(image)
        if running:
            self.virsh("start", name)
            await_true(lambda: self.said(name))
        return uuid

    def remove(self, name: str) -> None:
        """Kills a guest and forgets it and its snapshots; its image stays."""
        if self.virsh("domstate", name) != "shut off":
            self.virsh("destroy", name)
        self.virsh("undefine", name, "--snapshots-metadata")
        (self.directory / f"{name}.serial").unlink(missing_ok=True)

    def define(self, xml: str) -> None:
        (self.directory / "domain.xml").write_text(xml)
        self.virsh("define", str(self.directory / "domain.xml"))

    def image(self, name: str) -> Path:
        return self.directory / f"{name}.qcow2"

    def said(self, name: str) -> list[LibvirtConnection]:
        """All lines that the guest has written."""
        return lines(self.directory / f"{name}.serial")

    def await_line(self, name: str, condition: Any, since: int | None = None) -> LibvirtConnection:
        """The guest's first line that meets the condition, of those after so many; else of those that are new."""
        known = len(self.said(name)) if since is None else since

        def look() -> LibvirtConnection | None:
            return next((line for line in self.said(name)[known:] if condition(line)), None)

        found: LibvirtConnection = await_true(look)
        return found

    def stop_in_the_middle(self, name: str, reason: str) -> None:
        """Returns when libvirt has paused a guest for that reason, and QEMU is at it, stopped until it may `go_on`."""
        libvirt = import_module("libvirt")
        connection = libvirt.open(self.address)
        domain, image = connection.lookupByName(name), self.image(name)
        wanted = [libvirt.VIR_DOMAIN_PAUSED, getattr(libvirt, f"VIR_DOMAIN_PAUSED_{reason}")]
        await_true(lambda: domain.state(0) == wanted, every=0.001)
        if reason == "SAVE":
            written = image.stat().st_size + _MUCH
            await_true(lambda: image.stat().st_size > written, every=0.001)
        os.kill(self.qemu(name), signal.SIGSTOP)
        assert domain.state(0) == wanted
        connection.close()

    def go_on(self, name: str) -> None:
        """Lets QEMU work again."""
        os.kill(self.qemu(name), signal.SIGCONT)

    def qemu(self, name: str) -> int:
        """The process of a running guest."""
        return int((self.directory / f"run/libvirt/qemu/run/{name}.pid").read_text())

    def virsh(self, *arguments: str, check: bool = True) -> str:
        """What virsh says; it is a client like any other."""
        command = ["virsh", "--quiet", "--connect", self.address, *arguments]
        environment = {"PATH": _PATH, "LC_ALL": "C.UTF-8", "HOME": str(self.directory)}
        done = subprocess.run(command, capture_output=True, text=True, env=environment, check=False)
        assert done.returncode == 0 or not check, done.stderr
        return done.stdout.strip()

    def disk(self, name: str) -> int:
        """The count on the disk of a guest that is off."""
        sector = self.directory / "sector"
        command = [
            "qemu-img",
            "dd",
            "-O",
            "raw",
            "bs=512",
            "skip=1",
            "count=2",
            f"if={self.image(name)}",
            f"of={sector}",
        ]
        subprocess.run(command, check=True)
        return int.from_bytes(sector.read_bytes()[:4], "little")

    def write(self, name: str, count: int) -> None:
        """Another count on the disk of a guest that is off."""
        command = ["qemu-io", "-c", "write -P 0 512 512", "-c", f"write -P {count} 512 1", str(self.image(name))]
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL)

    def tags(self, name: str) -> list[str]:
        """The snapshots that a guest's disk holds, whatever libvirt knows of them."""
        command = ["qemu-img", "snapshot", "-U", "-l", str(self.image(name))]
        listing = subprocess.run(command, capture_output=True, text=True, check=True).stdout.splitlines()[2:]
        return [line[10:].split("  ")[0].strip() for line in listing]


_PLACES = {"RUNTIME_DIR": "run", "CONFIG_HOME": "conf", "CACHE_HOME": "cache", "DATA_HOME": "data"}


def kill(pid: int) -> None:
    """SIGKILL; returns when the process is dead."""
    os.kill(pid, signal.SIGKILL)
    await_true(lambda: not Path(f"/proc/{pid}").exists())
