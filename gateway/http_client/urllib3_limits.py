"""Applies the limits of `responses` to all connections that urllib3 opens in this process.

requests, keystoneauth, botocore and OpenTelemetry's exporter are based on urllib3. They open connections in places that
have no parameter for it: the login of proxmoxer, the credential providers of botocore. Therefore the class is changed,
and not an adapter or session. A module that imports one of these libraries calls `limit_urllib3`.
"""

from urllib3.connection import HTTPConnection

from gateway.http_client.responses import LimitedResponse


def limit_urllib3() -> None:
    """Sets the limits. Idempotent."""
    HTTPConnection.response_class = LimitedResponse
