"""The entry point `/api`: what a client asks first, to learn the version, the collections and who it is."""

from typing import Any

from gateway.rest.classes import COLLECTIONS
from gateway.rest.reading import Asker

VERSION = "4.4.0"
VERSIONS = (VERSION, "4.3.0", "4.2.0", "4.1.0", "4.0.0")  # the same answers for all of them


def entry_point(asker: Asker, root: str) -> dict[str, Any]:
    """`root` is the API's URL without a version."""
    caller = asker.caller
    role = caller.roles[0] if caller.roles else ""
    return {
        "name": "API",
        "description": "REST API",
        "version": VERSION,
        "versions": [{"name": name, "href": f"{root}/v{name}"} for name in VERSIONS],
        "identity": {
            "userid": caller.name,
            "name": caller.name,
            "group": caller.tenant,
            "role": role,
            "tenant": caller.tenant,
            "groups": [caller.tenant],
        },
        "product_info": {"name": "Snapshot gateway", "name_full": "Snapshot gateway"},
        "collections": [
            {"name": class_.collection, "href": f"{asker.base}/{class_.collection}", "description": class_.description}
            for class_ in COLLECTIONS.values()
        ],
    }
