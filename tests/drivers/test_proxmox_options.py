"""How a Proxmox VE provider is configured."""

from typing import Any

import pytest

from gateway.drivers.options import Secret
from gateway.drivers.proxmox.driver import Options, _endpoint


@pytest.mark.parametrize(
    ("options", "fault"),
    [
        ({"address": "http://pve.example"}, "has 'address' 'http://pve.example', which must be one such as"),
        ({"address": "https://pve.example/api2"}, "has 'address'"),
        ({"address": "https://pve.example:port"}, "has 'address'"),
        ({"user": "root"}, "has 'user' 'root', which must name its realm too"),
        ({"password": None}, "needs either 'password', or 'token_name' and 'token_value'"),
        ({"token_name": "t"}, "needs either 'password'"),
        ({"token_name": "t", "token_value": Secret("v")}, "needs either 'password'"),
        ({"timeout": 0.0}, "has 'timeout' 0.0, which must be more than 0"),
    ],
)
def test_options_that_make_no_sense(options: dict[str, Any], fault: str) -> None:
    with pytest.raises(ValueError, match="^" + fault):
        Options(**{"address": "pve.example", "user": "a@pve", "password": Secret("s"), **options})


@pytest.mark.parametrize(
    ("address", "endpoint"),
    [
        ("pve.example", ("pve.example", 8006)),
        ("https://pve.example/", ("pve.example", 8006)),
        ("https://192.0.2.7:443", ("192.0.2.7", 443)),
        ("https://[2001:db8::7]:8007", ("[2001:db8::7]", 8007)),
    ],
)
def test_addresses(address: str, endpoint: tuple[str, int]) -> None:
    assert _endpoint(address) == endpoint
