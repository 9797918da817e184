"""Tests the options of the proxmox driver."""

from typing import Any

import pytest

from gateway.drivers.options import Secret
from gateway.drivers.proxmox.driver import Options, endpoint


@pytest.mark.parametrize(
    ("options", "fault"),
    [
        (
            {"address": "http://pve.example"},
            "Option 'address' must be a URL such as https://pve.example:8006, not 'http://pve.example'.",
        ),
        ({"address": "https://pve.example/api2"}, "Option 'address' must be"),
        ({"address": "https://pve.example:port"}, "Option 'address' must be"),
        ({"user": "root"}, "Option 'user' must include the realm, such as gateway@pve, not 'root'."),
        ({"password": None}, "Either option 'password' or options 'token_name' and 'token_value' are required."),
        ({"token_name": "t"}, "Either option 'password'"),
        ({"token_name": "t", "token_value": Secret("v")}, "Either option 'password'"),
        ({"timeout": 0.0}, "Option 'timeout' must be greater than 0, not 0.0."),
    ],
)
def test_invalid_options(options: dict[str, Any], fault: str) -> None:
    with pytest.raises(ValueError, match="^" + fault):
        Options(**{"address": "pve.example", "user": "a@pve", "password": Secret("s"), **options})


@pytest.mark.parametrize(
    ("address", "expected"),
    [
        ("pve.example", ("pve.example", 8006)),
        ("https://pve.example/", ("pve.example", 8006)),
        ("https://192.0.2.7:443", ("192.0.2.7", 443)),
        ("https://[2001:db8::7]:8007", ("[2001:db8::7]", 8007)),
    ],
)
def test_address_defaults(address: str, expected: tuple[str, int]) -> None:
    assert endpoint(address) == expected
