"""python -m tests.openstack ENVIRONMENT [PYTEST OPTION…]: starts OpenStack, runs its tests, ends it."""

import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from tests.openstack.stack import AUTH_URL, Stack

environment, *options = sys.argv[1:]
# Not below TMPDIR, which may be memory; and short, for sockets have short names.
with tempfile.TemporaryDirectory(prefix="openstack-", dir="/var/tmp", ignore_cleanup_errors=True) as directory:
    Path(directory).chmod(0o755)  # RabbitMQ and MariaDB are users of their own
    stack = Stack(Path(environment).absolute(), Path(directory))
    begun = time.monotonic()
    try:
        stack.start()
        print(f"OpenStack answers after {time.monotonic() - begun:.0f} s", flush=True)
        tests = ["tests/openstack", "tests/drivers/test_contract.py", "-k", "openstack_real or test_openstack"]
        quiet = ["-W", "ignore::PendingDeprecationWarning"]  # its SDK's, of itself
        command = [sys.executable, "-m", "pytest", "-v", *quiet, *tests, *options]
        code = subprocess.run(command, env={**os.environ, "GATEWAY_TEST_OPENSTACK": AUTH_URL}, check=False).returncode
    finally:
        stack.stop()
sys.exit(code)
