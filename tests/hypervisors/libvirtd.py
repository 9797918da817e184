"""Runs a private, unprivileged libvirtd with its guests, whose sockets and files are in a temporary directory.

A supervisor shell starts libvirtd and outlives it, so that libvirtd can be killed and restarted while the guests
continue. The shell runs under `tini`, which reaps dead processes at once. When its standard input closes, also because
the test process has died, it kills libvirtd and all guests.
"""

import os
import pwd
import shutil
import signal
import subprocess
import tempfile
from importlib import import_module
from pathlib import Path
from typing import Any
from uuid import NAMESPACE_OID, uuid5

from tests.hypervisors.guest import GuestLine, domain_xml, lines, write_image
from tests.waiting import until

_PROGRAMS = ("libvirtd", "virsh", "qemu-system-x86_64", "qemu-img", "qemu-io", "tini")
_MIN_WRITTEN = 10 << 20  # bytes of saved memory after which a save counts as in progress
_PATH = "/usr/sbin:/usr/bin:/sbin:/bin"

_SUPERVISOR = """
while read -r _; do (libvirtd --config libvirtd.conf --pid-file libvirtd.pid </dev/null &) done
for file in libvirtd.pid run/libvirt/qemu/run/*.pid; do kill -9 "$(cat "$file")"; done
rm -rf "$PWD"
"""


def lacking() -> str | None:
    """Why libvirtd cannot be started on this host; None if it can."""
    missing = [program for program in _PROGRAMS if shutil.which(program, path=_PATH) is None]
    return f"{missing[0]} is not installed" if missing else None


class Libvirtd:
    """The daemon and its guests. If the tests run as root, it runs as the user `nobody`."""

    def __init__(self) -> None:
        self.directory = Path(tempfile.mkdtemp(prefix="gw-"))  # short, because socket paths have at most 107 bytes
        for name in ("run", "conf/libvirt", "cache", "data"):
            (self.directory / name).mkdir(parents=True)
        (self.directory / "libvirtd.conf").write_text(
            f'unix_sock_dir = "{self.directory}/run"\nauth_unix_rw = "none"\n'
            f'log_outputs = "3:file:{self.directory}/log"\n'
        )
        (self.directory / "conf/libvirt/qemu.conf").write_text('stdio_handler = "file"\nsecurity_driver = "none"\n')
        user: dict[str, Any] = {}
        if os.geteuid() == 0:
            account = pwd.getpwnam("nobody")
            user = {"user": account.pw_uid, "group": account.pw_gid, "extra_groups": []}
        environment = {
            "PATH": _PATH,
            "LC_ALL": "C.UTF-8",
            "HOME": str(self.directory),
            **{f"XDG_{name}": f"{self.directory}/{path}" for name, path in _XDG_DIRECTORIES.items()},
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
        """Changes the owner of files to the daemon's user."""
        if self._user:
            for path in paths:
                shutil.chown(path, self._user["user"], self._user["group"])

    # ---- the daemon

    def start(self) -> None:
        """Starts or restarts the daemon; returns when it answers."""
        assert self._supervisor.stdin is not None
        self._supervisor.stdin.write(b"\n")
        self._supervisor.stdin.flush()
        until(lambda: self.virsh("uri", check=False))

    def kill(self) -> None:
        """Kills the daemon, not the guests; returns when it is dead."""
        file = self.directory / "libvirtd.pid"
        kill(int(file.read_text()))
        file.unlink()

    def stop(self) -> None:
        """Kills the daemon and all guests, and deletes their files."""
        pids = [int(file.read_text()) for file in self.directory.rglob("*.pid")]
        self._supervisor.communicate()
        until(lambda: not any(Path(f"/proc/{pid}").exists() for pid in pids))
        shutil.rmtree(self.directory, ignore_errors=True)

    # ---- guests

    def add(
        self, name: str, *, touched: int = 0, kind: str = "qcow2", running: bool = True, directory: Path | None = None
    ) -> str:
        """Defines a guest and by default starts it; its UUID. A started guest has written its first line.

        `touched`: MiB of memory that the guest writes to. `kind`: format of its disk.
        """
        image, uuid = (directory or self.directory) / f"{name}.qcow2", str(uuid5(NAMESPACE_OID, name))
        write_image(image, touched, kind)
        self.define(domain_xml(name, uuid, image, self.directory / f"{name}.serial", touched + 2, kind))
        self.adopt(image)
        if running:
            self.virsh("start", name)
            until(lambda: self.guest_lines(name))
        return uuid

    def remove(self, name: str) -> None:
        """Kills a guest, and undefines it and its snapshots. Its image remains."""
        if self.virsh("domstate", name) != "shut off":
            self.virsh("destroy", name)
        self.virsh("undefine", name, "--snapshots-metadata")
        (self.directory / f"{name}.serial").unlink(missing_ok=True)

    def define(self, xml: str) -> None:
        (self.directory / "domain.xml").write_text(xml)
        self.virsh("define", str(self.directory / "domain.xml"))

    def image(self, name: str) -> Path:
        return self.directory / f"{name}.qcow2"

    def guest_lines(self, name: str) -> list[GuestLine]:
        """All lines that the guest has written to its serial port."""
        return lines(self.directory / f"{name}.serial")

    def await_line(self, name: str, condition: Any, since: int | None = None) -> GuestLine:
        """Waits for the guest's first line that meets the condition, after its first `since` lines.

        By default only lines that are written from now on count.
        """
        skipped = len(self.guest_lines(name)) if since is None else since

        def find() -> GuestLine | None:
            return next((line for line in self.guest_lines(name)[skipped:] if condition(line)), None)

        found: GuestLine = until(find)
        return found

    def pause_qemu(self, name: str, reason: str) -> None:
        """Stops QEMU in the middle of a job, with SIGSTOP, until `resume_qemu`.

        Waits until libvirt has paused the guest for `reason`: SAVE (memory is being saved; at least 10 MiB have been
        written) or STARTING_UP (a revert loads memory).
        """
        libvirt = import_module("libvirt")
        connection = libvirt.open(self.address)
        domain, image = connection.lookupByName(name), self.image(name)
        wanted = [libvirt.VIR_DOMAIN_PAUSED, getattr(libvirt, f"VIR_DOMAIN_PAUSED_{reason}")]
        until(lambda: domain.state(0) == wanted, pause=0.001)
        if reason == "SAVE":
            written = image.stat().st_size + _MIN_WRITTEN
            until(lambda: image.stat().st_size > written, pause=0.001)
        os.kill(self.qemu(name), signal.SIGSTOP)
        assert domain.state(0) == wanted
        connection.close()

    def resume_qemu(self, name: str) -> None:
        """Resumes QEMU after `pause_qemu`."""
        os.kill(self.qemu(name), signal.SIGCONT)

    def qemu(self, name: str) -> int:
        """The process id of a running guest."""
        return int((self.directory / f"run/libvirt/qemu/run/{name}.pid").read_text())

    def virsh(self, *arguments: str, check: bool = True) -> str:
        """Runs virsh, as a client other than the gateway, and returns its output."""
        command = ["virsh", "--quiet", "--connect", self.address, *arguments]
        environment = {"PATH": _PATH, "LC_ALL": "C.UTF-8", "HOME": str(self.directory)}
        done = subprocess.run(command, capture_output=True, text=True, env=environment, check=False)
        assert done.returncode == 0 or not check, done.stderr
        return done.stdout.strip()

    def disk(self, name: str) -> int:
        """The counter on the disk of a guest that is off."""
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
        """Sets the counter on the disk of a guest that is off."""
        command = ["qemu-io", "-c", "write -P 0 512 512", "-c", f"write -P {count} 512 1", str(self.image(name))]
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL)

    def tags(self, name: str) -> list[str]:
        """The tags of the snapshots on a guest's disk, also of those that libvirt does not list."""
        command = ["qemu-img", "snapshot", "-U", "-l", str(self.image(name))]
        listing = subprocess.run(command, capture_output=True, text=True, check=True).stdout.splitlines()[2:]
        return [line[10:].split("  ")[0].strip() for line in listing]


_XDG_DIRECTORIES = {"RUNTIME_DIR": "run", "CONFIG_HOME": "conf", "CACHE_HOME": "cache", "DATA_HOME": "data"}


def kill(pid: int) -> None:
    """Kills a process; returns when it is dead."""
    os.kill(pid, signal.SIGKILL)
    until(lambda: not Path(f"/proc/{pid}").exists())
