"""Waits until Nova has a compute host: python ready.py NOVA-MANAGE OPTIONS… Runs in the services' environment."""

import subprocess
import sys
import time
from typing import Any

import openstack

cloud: Any = openstack.connect(
    auth_url="http://127.0.0.1:15001/v3",
    username="admin",
    password="pw",
    project_name="admin",
    user_domain_id="default",
    project_domain_id="default",
    region_name="RegionOne",
)
deadline = time.monotonic() + 120
while not [host for host in cloud.compute.hypervisors() if host.state == "up"]:
    assert time.monotonic() < deadline, "No compute host became available."
    subprocess.run([*sys.argv[1:], "cell_v2", "discover_hosts"], check=False, capture_output=True)
    time.sleep(1)
