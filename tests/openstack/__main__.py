"""python -m tests.openstack ENVIRONMENT [PYTEST OPTION…]: starts OpenStack, runs the tests, and stops OpenStack."""

import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from tests.openstack.stack import AUTH_URL, Stack

environment, *options = sys.argv[1:]
# Not below TMPDIR, which may be in memory. The path is short, because paths of sockets are limited in length.
with tempfile.TemporaryDirectory(prefix="openstack-", dir="/var/tmp", ignore_cleanup_errors=True) as directory:
    Path(directory).chmod(0o755)  # RabbitMQ and MariaDB run as their own users
    stack = Stack(Path(environment).absolute(), Path(directory))
    started = time.monotonic()
    try:
        stack.start()
        print(f"OpenStack answers after {time.monotonic() - started:.0f} s", flush=True)
        tests = ["tests/openstack", "tests/drivers/test_contract.py", "-k", "openstack_real or test_openstack"]
        quiet = ["-W", "ignore::PendingDeprecationWarning"]  # raised by OpenStack's SDK
        argv = [sys.executable, "-m", "pytest", "-v", *quiet, *tests, *options]
        code = subprocess.run(argv, env={**os.environ, "GATEWAY_TEST_OPENSTACK": AUTH_URL}, check=False).returncode
    finally:
        stack.stop()
sys.exit(code)
