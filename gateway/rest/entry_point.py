"""The entry point `/api`: the versions, the collections, the caller's identity, and what describes the product.

What only ManageIQ has, such as links to users, groups and servers, is null: clients read these members, and a link
would lead nowhere.
"""

from collections.abc import Sequence
from typing import Any

from gateway import version
from gateway.columns import now
from gateway.rest.classes import COLLECTIONS
from gateway.rest.errors import bad_request
from gateway.rest.features import features_of, product_features
from gateway.rest.reader import Requester

VERSION = "4.4.0"
VERSIONS = (VERSION, "4.3.0", "4.2.0", "4.1.0", "4.0.0")  # with the same responses for all of them

_AUTHORIZATION = "authorization"
_PRODUCT_NAME = "Snapshot gateway"


def entry_point(requester: Requester, root: str, attributes: Sequence[str]) -> dict[str, Any]:
    """The body of the response. `root` is the API's URL without a version.

    `attributes` may name `authorization`, which is shown only then. Raises RestError for another name.
    """
    if unknown := [name for name in attributes if name != _AUTHORIZATION]:
        raise bad_request(f"Invalid attributes specified: {','.join(unknown)}")
    caller = requester.caller
    body = {
        "name": "API",
        "description": "REST API",
        "version": VERSION,
        "versions": [{"name": name, "href": f"{root}/v{name}"} for name in VERSIONS],
        "settings": {"locale": "en", "asynchronous_notifications": False},
        "identity": _identity(requester),
        "server_info": _server_info(),
        "timezones": [{"name": "UTC", "description": "(GMT+00:00) UTC"}],
        "product_info": product_info(),
    }
    if attributes:
        body[_AUTHORIZATION] = {"product_features": product_features(caller)}
    collections = [
        {"name": class_.collection, "href": f"{requester.base}/{class_.collection}", "description": class_.description}
        for class_ in COLLECTIONS.values()
    ]
    return body | {"collections": collections}


def product_info() -> dict[str, Any]:
    """What describes the product. It is the same for all callers, and public."""
    return {
        "name": _PRODUCT_NAME,
        "name_full": _PRODUCT_NAME,
        "copyright": None,
        "support_website": None,
        "support_website_text": None,
        "branding_info": {},
        "authentication": {"mode": "database", "oidc_enabled": False, "saml_enabled": False, "sso_enabled": False},
    }


def _identity(requester: Requester) -> dict[str, Any]:
    caller = requester.caller
    features = features_of(caller)
    return {
        "userid": caller.name,
        "name": caller.name,
        "user_href": None,
        "group": caller.tenant,
        "group_href": None,
        "role": caller.roles[0] if caller.roles else "",
        "role_href": None,
        "tenant": caller.tenant,
        "groups": list(caller.groups),
        "miq_groups": [
            {"description": group, "product_features": features, "sui_product_features": {}} for group in caller.groups
        ],
    }


def _server_info() -> dict[str, Any]:
    return {
        "version": version.VERSION,
        "build": None,
        "release": None,
        "appliance": _PRODUCT_NAME,
        "time": f"{now():%Y-%m-%dT%H:%M:%SZ}",
        "server_href": None,
        "zone_href": None,
        "region_href": None,
        "enterprise_href": None,
        "plugins": {},
    }
