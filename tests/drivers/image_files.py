"""Creates, writes, reads and holds open real qcow2 images with the programs of qemu-utils."""

import json
import os
import select
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Self

import pytest

from tests.databases import required

_TIMEOUT = 30.0  # seconds


def lacking() -> str | None:
    """Why images cannot be created on this host; None if they can."""
    missing = [program for program in ("qemu-img", "qemu-io") if shutil.which(program) is None]
    return f"{' and '.join(missing)} (of qemu-utils) not installed" if missing else None


def skip_without_qemu() -> None:
    """Skips the calling test module if qemu-utils is not installed, or fails if this run requires these tests."""
    if reason := lacking():
        if required("qcow2"):
            raise RuntimeError(reason)
        pytest.skip(reason, allow_module_level=True)


def create_image(path: Path, size: str = "1M", *options: str) -> Path:
    """Creates an empty image."""
    qemu_img("create", "-q", "-f", "qcow2", *options, path, size)
    return path


def qemu_img(*arguments: str | bytes | Path) -> str:
    """Runs `qemu-img`, as an operator does without the gateway, and returns its output."""
    return subprocess.run(["qemu-img", *arguments], check=True, capture_output=True, text=True).stdout


def write(path: Path, pattern: int, offset: str = "0", size: str = "64k") -> None:
    """Fills a part of the disk with one byte, as the machine would."""
    done = _qemu_io(path, "-c", f"write -P {pattern} {offset} {size}")
    assert done.returncode == 0, done


def contains(path: Path, pattern: int, offset: str = "0", size: str = "64k") -> bool:
    """Whether a part of the disk is filled with that byte."""
    done = _qemu_io(path, "-r", "-c", f"read -P {pattern} {offset} {size}")
    assert done.returncode == 0 or "verification failed" in done.stdout, done
    return done.returncode == 0


def _qemu_io(path: Path, *options: str) -> "subprocess.CompletedProcess[str]":
    return subprocess.run(["qemu-io", "-f", "qcow2", *options, path], capture_output=True, text=True, check=False)


def info(path: Path) -> dict[str, Any]:
    """The output of `qemu-img info` for an image."""
    found: dict[str, Any] = json.loads(qemu_img("info", "-U", "-f", "qcow2", "--output=json", path))
    return found


def tags(path: Path) -> list[str]:
    """The tags of the image's snapshots, as `qemu-img` lists them."""
    return [snapshot["name"] for snapshot in info(path).get("snapshots", [])]


def is_intact(path: Path) -> bool:
    """Whether `qemu-img check` finds no corruption. Leaked clusters are ignored."""
    return subprocess.run(["qemu-img", "check", "-q", path], capture_output=True, check=False).returncode in {0, 3}


@contextmanager
def held_open(path: Path, *options: str) -> Iterator[None]:
    """Holds an image open, by default for writing, as a running machine does."""
    command = ["qemu-io", *options, "-f", "qcow2", str(path)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        process.stdin.write("length\n")
        process.stdin.flush()
        assert process.stdout.readline() != ""  # an empty line means that the image could not be opened
        try:
            yield
        finally:
            process.kill()


def fake_qemu_img(path: Path, script: str) -> str:
    """Writes a replacement of `qemu-img` that runs `script` in place of the subcommand `snapshot`.

    The script finds the real program as `$QEMU_IMG`. Other subcommands run the real program.
    """
    real = shutil.which("qemu-img")
    path.write_text(f'#!/bin/sh\nQEMU_IMG={real}\n[ "$1" = snapshot ] || exec $QEMU_IMG "$@"\n{script}\n')
    path.chmod(0o755)
    return str(path)


def interrupted_revert(path: Path) -> str:
    """A shell command that leaves the image as `qemu-img` does if it is killed near the end of a revert.

    It sets the COPIED flag in the first entry of the active L1 table, as if no snapshot shared the L2 table.
    """
    offset = int.from_bytes(path.read_bytes()[40:48], "big")
    return f"printf '\\200' | dd of={path} bs=1 seek={offset} conv=notrunc 2>/dev/null"


class Gate:
    """A replacement of `qemu-img` that blocks, before or after its work, until the gate is opened."""

    def __init__(self, directory: Path, when: str) -> None:
        self._pipes = []
        for name in ("reached", "open"):
            os.mkfifo(directory / name)
            self._pipes.append(os.open(directory / name, os.O_RDWR))  # O_RDWR on a FIFO never blocks
        stop = f"echo $$ >{directory}/reached; read line <{directory}/open"
        work = {"before": f'{stop}; exec $QEMU_IMG "$@"', "after": f'$QEMU_IMG "$@"; code=$?; {stop}; exit $code'}[when]
        self.program = fake_qemu_img(directory / "gate", work)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        for pipe in self._pipes:
            os.close(pipe)

    def wait(self, number: int = 1) -> list[int]:
        """Waits until `number` processes have reached the gate, and returns their ids."""
        reached = b""
        while reached.count(b"\n") < number:
            assert select.select([self._pipes[0]], [], [], _TIMEOUT)[0], "the gate was not reached"
            reached += os.read(self._pipes[0], 1)
        return [int(line) for line in reached.split()]

    def open(self, number: int = 1) -> None:
        """Lets `number` processes continue."""
        os.write(self._pipes[1], b"\n" * number)
