"""Keystone, Glance, Placement, Neutron and Nova with libvirt and QEMU (TCG), in one directory, on loopback.

The services are installed in their own environment. MariaDB, RabbitMQ and libvirtd are the system's programs, run as
private instances. No process is left running: each is ended by its id.
"""

import contextlib
import os
import shutil
import signal
import socket
import subprocess
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from string import Template

HERE = Path(__file__).parent
START_TIMEOUT = 120.0  # seconds until a starting service is considered broken

KEYSTONE, GLANCE, PLACEMENT, NEUTRON, NOVA = 15_001, 15_002, 15_003, 15_004, 15_005
MARIADB, RABBITMQ, RABBITMQ_DIST = 13_306, 25_671, 25_673
AUTH_URL = f"http://127.0.0.1:{KEYSTONE}/v3"
DATABASES = ("keystone", "glance", "placement", "nova_api", "nova_cell0", "nova_cell1", "neutron")


class Stack:
    """All services. `environment`: where they are installed. `directory`: for all files that they create."""

    def __init__(self, environment: Path, directory: Path) -> None:
        self.bin = environment / "bin"
        self.directory = directory
        self._share = environment / "etc"  # configuration files of the services' packages
        self._running: list[subprocess.Popen[bytes]] = []

    def start(self) -> None:
        """Installs and starts all services. Takes one to two minutes."""
        for part in ("log", "run", "fernet", "credential", "images", "staging", "tasks", "instances"):
            (self.directory / part).mkdir(parents=True, exist_ok=True)
        self._start_rabbitmq()
        self._start_mariadb()
        self._start_libvirtd()
        self._configure()
        self._make_schemas()
        self._serve(KEYSTONE, "keystone.wsgi.api", OS_KEYSTONE_CONFIG_DIR=self._config("keystone"))
        await_port(KEYSTONE)
        self.run(str(self.bin / "python"), str(HERE / "catalog.py"))
        self._serve(GLANCE, "glance.wsgi.api", OS_GLANCE_CONFIG_DIR=self._config("glance"))
        self._serve(PLACEMENT, "placement.wsgi.api", OS_PLACEMENT_CONFIG_DIR=self._config("placement"))
        neutron = {"OS_NEUTRON_CONFIG_DIR": self._config("neutron"), "OS_NEUTRON_CONFIG_FILES": "neutron.conf"}
        self._serve(NEUTRON, "neutron.wsgi.api", **neutron)
        nova = ["--config-file", self._file("nova", "nova.conf")]
        for service in ("conductor", "scheduler"):
            self._spawn(f"nova-{service}", [str(self.bin / f"nova-{service}"), *nova])
        self._serve(NOVA, "nova.wsgi.osapi_compute", OS_NOVA_CONFIG_DIR=self._config("nova"))
        for port in (GLANCE, PLACEMENT, NEUTRON):
            await_port(port)
        self._spawn("nova-compute", [str(self.bin / "nova-compute"), *nova])
        await_port(NOVA)
        self.run(str(self.bin / "python"), str(HERE / "ready.py"), str(self.bin / "nova-manage"), *nova)

    def stop(self) -> None:
        """Ends all started processes, and the guests."""
        for process in reversed(self._running):
            _end(process)
        for pid in _orphans(self.directory):
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)

    def run(self, *argv: str) -> None:
        """Runs a command to its end. Raises AssertionError with its output if it fails."""
        done = subprocess.run(argv, env=self._environment(), capture_output=True, text=True, timeout=600, check=False)
        assert done.returncode == 0, f"{argv[:4]}: {done.stdout[-2000:]}{done.stderr[-4000:]}"

    # ---- parts

    def _start_rabbitmq(self) -> None:
        home = self.directory / "rabbitmq"
        home.mkdir()
        (home / "rabbitmq.config").write_text(
            f'[{{rabbit,[{{tcp_listeners,[{{"127.0.0.1",{RABBITMQ}}}]}},{{loopback_users,[]}}]}},'
            "{kernel,[{inet_dist_use_interface,{127,0,0,1}}]}].\n"
        )
        shutil.chown(home, "rabbitmq", "rabbitmq")
        own = {
            "PATH": os.environ["PATH"],
            "HOME": str(home),
            "ERL_EPMD_ADDRESS": "127.0.0.1",
            "RABBITMQ_NODENAME": "lab@localhost",
            "RABBITMQ_CONFIG_FILE": str(home / "rabbitmq"),
            "RABBITMQ_MNESIA_BASE": str(home / "mnesia"),
            "RABBITMQ_LOG_BASE": str(home / "log"),
            "RABBITMQ_DIST_PORT": str(RABBITMQ_DIST),
            "RABBITMQ_ENABLED_PLUGINS_FILE": str(home / "plugins"),
        }
        self._spawn("rabbitmq", ["/usr/lib/rabbitmq/bin/rabbitmq-server"], own, user="rabbitmq")
        await_port(RABBITMQ)

    def _start_mariadb(self) -> None:
        data = self.directory / "mariadb"
        data.mkdir()
        shutil.chown(data, "mysql", "mysql")
        install = ["--user=mysql", f"--datadir={data}", "--skip-test-db", "--auth-root-authentication-method=normal"]
        self.run("mariadb-install-db", *install)
        options = ["--no-defaults", "--user=mysql", f"--datadir={data}", "--bind-address=127.0.0.1"]
        options += [f"--port={MARIADB}", f"--socket={data}/my.sock", f"--pid-file={data}/my.pid"]
        options += ["--innodb-flush-log-at-trx-commit=0", "--max-connections=400"]
        self._spawn("mariadb", ["mariadbd", *options])
        await_port(MARIADB)
        for name in DATABASES:
            grant = f"grant all on {name}.* to os@'127.0.0.1' identified by 'os'"
            sql = f"create database {name} character set utf8mb3; {grant}"
            self.run("mariadb", "-u", "root", "-S", f"{data}/my.sock", "-e", sql)

    def _start_libvirtd(self) -> None:
        home = self.directory / "libvirt"
        for part in ("etc", "lib", "run"):
            (home / part).mkdir(parents=True)
        (home / "libvirtd.conf").write_text(
            f'unix_sock_dir = "{home}"\nauth_unix_rw = "none"\nlog_outputs = "3:file:{home}/libvirtd.log"\n'
        )
        (home / "etc" / "qemu.conf").write_text(
            'user = "root"\ngroup = "root"\ndynamic_ownership = 0\nremember_owner = 0\nstdio_handler = "file"\n'
            'security_driver = "none"\nnamespaces = []\ncgroup_controllers = []\n'
        )
        # libvirtd requires this user and group. Only a Debian package that is otherwise unnecessary would create them.
        users, groups = Path("/etc/passwd").read_text(), Path("/etc/group").read_text()
        (home / "passwd").write_text(f"{users}libvirt-qemu:x:64055:64055::/nonexistent:/usr/sbin/nologin\n")
        (home / "group").write_text(f"{groups}libvirt-qemu:x:64055:\n")
        # Bind mounts replace the system directories that libvirtd uses by private ones.
        places = {"etc": "/etc/libvirt", "lib": "/var/lib/libvirt", "run": "/run/libvirt"}
        for place in places.values():
            Path(place).mkdir(parents=True, exist_ok=True)
        places |= {"passwd": "/etc/passwd", "group": "/etc/group"}
        mounts = "".join(f"mount --bind {home}/{part} {place} && " for part, place in places.items())
        script = f"{mounts}exec tini -s -- libvirtd --config {home}/libvirtd.conf --pid-file {home}/libvirtd.pid"
        self._spawn("libvirtd", ["unshare", "--mount", "sh", "-c", script])
        _await((home / "libvirt-sock").exists, "libvirtd")

    def _configure(self) -> None:
        """Writes the services' configuration files, from the templates in `configuration` and from their packages."""
        values = {
            "directory": str(self.directory),
            "bin": str(self.bin),
            "share": str(self._share),
            "auth_url": AUTH_URL,
            "glance": f"http://127.0.0.1:{GLANCE}",
            "rabbitmq": f"rabbit://guest:guest@127.0.0.1:{RABBITMQ}/",
            "mariadb": f"mysql+pymysql://os:os@127.0.0.1:{MARIADB}",
            "libvirt": f"qemu+unix:///system?socket={self.directory}/libvirt/libvirt-sock",
        }
        for template in sorted((HERE / "configuration").glob("*.conf")):
            service = template.stem.partition("-")[0]
            Path(self._config(service)).mkdir(parents=True, exist_ok=True)
            Path(self._file(service, template.name)).write_text(Template(template.read_text()).substitute(values))
        shutil.copy(self._share / "nova" / "api-paste.ini", self._config("nova"))
        for keys in ("fernet", "credential"):
            (self.directory / keys).chmod(0o700)

    def _make_schemas(self) -> None:
        keystone = [str(self.bin / "keystone-manage"), "--config-file", self._file("keystone", "keystone.conf")]
        owner = ["--keystone-user", "root", "--keystone-group", "root"]
        urls = [f"--bootstrap-{kind}-url={AUTH_URL}" for kind in ("admin", "public", "internal")]
        nova = [str(self.bin / "nova-manage"), "--config-file", self._file("nova", "nova.conf")]
        cell0 = f"--database_connection=mysql+pymysql://os:os@127.0.0.1:{MARIADB}/nova_cell0"
        glance = self._file("glance", "glance-api.conf")
        placement = self._file("placement", "placement.conf")
        neutron = self._file("neutron", "neutron.conf")
        for argv in (
            [*keystone, "db_sync"],
            [*keystone, "fernet_setup", *owner],
            [*keystone, "credential_setup", *owner],
            [*keystone, "bootstrap", "--bootstrap-password=pw", *urls, "--bootstrap-region-id=RegionOne"],
            [str(self.bin / "glance-manage"), "--config-file", glance, "db_sync"],
            [str(self.bin / "placement-manage"), "--config-file", placement, "db", "sync"],
            [*nova, "api_db", "sync"],
            [*nova, "cell_v2", "map_cell0", cell0],
            [*nova, "db", "sync"],
            [*nova, "cell_v2", "create_cell", "--name", "cell1"],
            [str(self.bin / "neutron-db-manage"), "--config-file", neutron, "upgrade", "head"],
        ):
            self.run(*argv)

    # ---- processes

    def _serve(self, port: int, module: str, **environment: str) -> None:
        argv = [str(self.bin / "python"), str(HERE / "serve.py"), str(port), module]
        self._spawn(module, argv, {**self._environment(), **environment})

    def _spawn(
        self, name: str, argv: Sequence[str], environment: Mapping[str, str] | None = None, user: str | None = None
    ) -> None:
        with (self.directory / "log" / f"{name}.out").open("wb") as out:
            self._running.append(
                subprocess.Popen(
                    argv,
                    env=environment or self._environment(),
                    stdout=out,
                    stderr=subprocess.STDOUT,
                    start_new_session=True,
                    user=user,
                    group=user,
                    extra_groups=[] if user else None,
                    cwd=self.directory,
                )
            )

    def _environment(self) -> dict[str, str]:
        own = {"OS_NOVA_DISABLE_EVENTLET_PATCHING": "1", "PYTHONWARNINGS": "ignore"}
        kept = {name: os.environ[name] for name in ("HOME", "LANG") if name in os.environ}
        return {**kept, **own, "PATH": f"{self.bin}:{os.environ['PATH']}"}

    def _config(self, service: str) -> str:
        return str(self.directory / "etc" / service)

    def _file(self, service: str, name: str) -> str:
        return f"{self._config(service)}/{name}"


def await_port(port: int) -> None:
    """Waits until a process listens on the port."""

    def listens() -> bool:
        with socket.socket() as probe:
            return probe.connect_ex(("127.0.0.1", port)) == 0

    _await(listens, f"The service on port {port}")


def _await(condition: Callable[[], bool], what: str) -> None:
    deadline = time.monotonic() + START_TIMEOUT
    while not condition():
        assert time.monotonic() < deadline, f"{what} did not start within {START_TIMEOUT:g} s."
        time.sleep(0.1)


def _end(process: subprocess.Popen[bytes]) -> None:
    """Ends a process and its group. Nova's daemons may handle SIGTERM late, so SIGKILL follows."""
    for number, timeout in ((signal.SIGTERM, 5.0), (signal.SIGKILL, 10.0)):
        try:
            os.killpg(process.pid, number)
            process.wait(timeout)
        except ProcessLookupError:
            break
        except subprocess.TimeoutExpired:
            continue


def _orphans(directory: Path) -> list[int]:
    """The ids of processes that outlive their parents in this directory: guests, and Erlang's port mapper daemon."""
    pids = []
    for entry in Path("/proc").glob("[0-9]*"):
        try:
            cmdline, environ = (entry / "cmdline").read_bytes(), (entry / "environ").read_bytes()
        except OSError:
            continue
        program = cmdline.split(b"\0")[0]
        here = str(directory).encode()
        if (b"qemu-system" in program and here in cmdline) or (program.endswith(b"epmd") and here in environ):
            pids.append(int(entry.name))
    return pids
