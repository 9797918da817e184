"""Real qcow2 images: made, written to, read back and held open, by the programs of qemu-utils."""

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

_PATIENCE = 30.0  # seconds for what must happen


def lacking() -> str | None:
    """Why there can be no images here."""
    missing = [program for program in ("qemu-img", "qemu-io") if shutil.which(program) is None]
    return f"{' and '.join(missing)} (of qemu-utils) not installed" if missing else None


def need() -> None:
    """Skips the tests of the module that calls this where they cannot be run, unless this run must have them."""
    if reason := lacking():
        if required("qcow2"):
            raise RuntimeError(reason)
        pytest.skip(reason, allow_module_level=True)


def image(path: Path, size: str = "1M", *options: str) -> Path:
    """A new, empty image."""
    qemu_img("create", "-q", "-f", "qcow2", *options, path, size)
    return path


def qemu_img(*arguments: str | bytes | Path) -> str:
    """What `qemu-img` prints, as it does for an operator who works beside the gateway."""
    return subprocess.run(["qemu-img", *arguments], check=True, capture_output=True, text=True).stdout


def write(path: Path, pattern: int, place: str = "0", size: str = "64k") -> None:
    """Fills a part of the disk with one byte, as the machine would."""
    done = _io(path, "-c", f"write -P {pattern} {place} {size}")
    assert done.returncode == 0, done


def holds(path: Path, pattern: int, place: str = "0", size: str = "64k") -> bool:
    """Whether that part of the disk is full of that byte."""
    done = _io(path, "-r", "-c", f"read -P {pattern} {place} {size}")
    assert done.returncode == 0 or "verification failed" in done.stdout, done
    return done.returncode == 0


def _io(path: Path, *options: str) -> "subprocess.CompletedProcess[str]":
    return subprocess.run(["qemu-io", "-f", "qcow2", *options, path], capture_output=True, text=True, check=False)


def info(path: Path) -> dict[str, Any]:
    """What `qemu-img` tells of an image."""
    told: dict[str, Any] = json.loads(qemu_img("info", "-U", "-f", "qcow2", "--output=json", path))
    return told


def tags(path: Path) -> list[str]:
    """What the image's snapshots are called, as `qemu-img` lists them."""
    return [snapshot["name"] for snapshot in info(path).get("snapshots", [])]


def is_whole(path: Path) -> bool:
    """Whether nothing in the image is damaged. Clusters that nothing refers to do not count."""
    return subprocess.run(["qemu-img", "check", "-q", path], capture_output=True, check=False).returncode in {0, 3}


@contextmanager
def opened(path: Path, *options: str) -> Iterator[None]:
    """Holds an image open: for writing, as a machine that runs does, unless `options` say otherwise."""
    command = ["qemu-io", *options, "-f", "qcow2", str(path)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        process.stdin.write("length\n")
        process.stdin.flush()
        assert process.stdout.readline() != ""  # else it could not open the image
        try:
            yield
        finally:
            process.kill()


def script(path: Path, text: str) -> str:
    """A program in place of `qemu-img`, which it finds as `$QEMU_IMG`; it only changes how snapshots are made."""
    real = shutil.which("qemu-img")
    path.write_text(f'#!/bin/sh\nQEMU_IMG={real}\n[ "$1" = snapshot ] || exec $QEMU_IMG "$@"\n{text}\n')
    path.chmod(0o755)
    return str(path)


def tearing(path: Path) -> str:
    """What leaves an image as `qemu-img` does when it is killed near the end of a revert, as a command of a shell.

    The first word of the disk's map says that no snapshot shares what it leads to.
    """
    place = int.from_bytes(path.read_bytes()[40:48], "big")
    return f"printf '\\200' | dd of={path} bs=1 seek={place} conv=notrunc 2>/dev/null"


class Gate:
    """A program in place of `qemu-img` that stops, before or after it has done its work, until it is let through."""

    def __init__(self, directory: Path, when: str) -> None:
        self._pipes = []
        for name in ("reached", "open"):
            os.mkfifo(directory / name)
            self._pipes.append(os.open(directory / name, os.O_RDWR))  # so that nobody waits for the other to open it
        stop = f"echo $$ >{directory}/reached; read line <{directory}/open"
        work = {"before": f'{stop}; exec $QEMU_IMG "$@"', "after": f'$QEMU_IMG "$@"; code=$?; {stop}; exit $code'}[when]
        self.program = script(directory / "gate", work)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        for pipe in self._pipes:
            os.close(pipe)

    def wait(self, number: int = 1) -> list[int]:
        """Returns when so many have come, with their process ids."""
        come = b""
        while come.count(b"\n") < number:
            assert select.select([self._pipes[0]], [], [], _PATIENCE)[0], "the gate was not reached"
            come += os.read(self._pipes[0], 1)
        return [int(line) for line in come.split()]

    def open(self, number: int = 1) -> None:
        """Lets so many through."""
        os.write(self._pipes[1], b"\n" * number)
