"""Real qcow2 images: made, written to, read back and held open, by the programs of qemu-utils."""

import json
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

# qemu-img gives back what it cannot read with a warning; only what is told here is looked at.
_QUIET = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}


def lacking() -> str | None:
    """Why there can be no images here."""
    missing = [program for program in ("qemu-img", "qemu-io") if shutil.which(program) is None]
    return f"{' and '.join(missing)} (of qemu-utils) not installed" if missing else None


def image(path: Path, size: str = "1M", *options: str) -> Path:
    """A new, empty image."""
    qemu_img("create", "-q", "-f", "qcow2", *options, path, size)
    return path


def qemu_img(*arguments: str | bytes | Path) -> str:
    """What `qemu-img` prints, as it does for an operator who works beside the gateway."""
    return str(subprocess.run(["qemu-img", *arguments], check=True, **_QUIET).stdout)  # type: ignore[call-overload]


def write(path: Path, pattern: int, place: str = "0", size: str = "64k") -> None:
    """Fills a part of the disk with one byte, as the machine would."""
    done = _io(path, f"write -P {pattern} {place} {size}")
    assert done.returncode == 0, done


def holds(path: Path, pattern: int, place: str = "0", size: str = "64k") -> bool:
    """Whether that part of the disk is full of that byte."""
    return _io(path, f"read -P {pattern} {place} {size}").returncode == 0


def _io(path: Path, command: str) -> "subprocess.CompletedProcess[str]":
    return subprocess.run(["qemu-io", "-f", "qcow2", "-c", command, path], capture_output=True, text=True, check=False)


def tags(path: Path) -> list[str]:
    """What the image's snapshots are called, as `qemu-img` lists them."""
    return [snapshot["name"] for snapshot in info(path).get("snapshots", [])]


def info(path: Path) -> dict[str, Any]:
    told: dict[str, Any] = json.loads(qemu_img("info", "-U", "-f", "qcow2", "--output=json", path))
    return told


def leaks(path: Path) -> int:
    """Clusters that nothing refers to. Raises for what is worse: an image that is damaged."""
    done = subprocess.run(["qemu-img", "check", "-q", path], capture_output=True, text=True, check=False)
    assert done.returncode in {0, 3}, done
    return done.returncode


@contextmanager
def running(path: Path) -> Iterator["subprocess.Popen[str]"]:
    """Holds an image open for writing, as a machine that runs does."""
    with subprocess.Popen(["qemu-io", "-f", "qcow2", path], stdin=subprocess.PIPE, **_QUIET) as process:  # type: ignore[call-overload]
        process.stdin.write("length\n")
        process.stdin.flush()
        assert process.stdout.readline()  # it has opened the image
        try:
            yield process
        finally:
            process.kill()
            process.wait()
