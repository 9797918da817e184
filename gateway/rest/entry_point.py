"""The entry point `/api`: the versions, the collections and the caller's identity."""

from typing import Any

from gateway.rest.classes import COLLECTIONS
from gateway.rest.reader import Requester

VERSION = "4.4.0"
VERSIONS = (VERSION, "4.3.0", "4.2.0", "4.1.0", "4.0.0")  # with the same responses for all of them


def entry_point(requester: Requester, root: str) -> dict[str, Any]:
    """The body of the response. `root` is the API's URL without a version."""
    caller = requester.caller
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
            {
                "name": class_.collection,
                "href": f"{requester.base}/{class_.collection}",
                "description": class_.description,
            }
            for class_ in COLLECTIONS.values()
        ],
    }
