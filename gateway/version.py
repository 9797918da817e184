"""The version of this program."""

from importlib import metadata


def _installed() -> str:
    try:
        return metadata.version("snapshot-gateway")
    except metadata.PackageNotFoundError:
        return "from a checkout"


VERSION = _installed()
