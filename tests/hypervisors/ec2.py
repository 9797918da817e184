"""A cloud with EC2's API: moto in a separate process, behind a proxy that makes it more like AWS.

As on AWS, image names are unique, and CreateImage tags the EBS snapshots. A test injects faults with `Cloud.on`.
"""

import atexit
import os
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cache
from http.client import HTTPConnection
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from unittest.mock import patch
from urllib.parse import parse_qsl, urlencode

import boto3
from botocore.retries.standard import ExponentialBackoff

from gateway.drivers.ec2.driver import Ec2Driver, Options, make
from gateway.drivers.options import Secret

ROOT = Path(__file__).parent.parent.parent
REGION = "eu-central-1"

ENVIRONMENT = {
    "AWS_CONFIG_FILE": os.devnull,
    "AWS_SHARED_CREDENTIALS_FILE": os.devnull,
    "AWS_EC2_METADATA_DISABLED": "true",
}

Form = dict[str, str]  # the parameters of a call; `Action` names its action
Answer = tuple[int, str]  # HTTP status and body
Forward = Callable[[Form], Answer]
Fault = Callable[[Form, Forward], Answer | None]  # None closes the connection without a response


def refuse(code: str, words: str = "no", http: int = 400) -> Fault:
    """The call is not executed and returns an error."""
    return lambda form, forward: _error(code, words, http)


def lose(form: Form, forward: Forward) -> Answer | None:
    """The call is executed, but its response is lost."""
    forward(form)
    return None


def drop(form: Form, forward: Forward) -> Answer | None:
    """The call is neither executed nor answered."""
    return None


def respond(body: str, http: int = 200) -> Fault:
    """The call is not executed and returns the given body."""
    return lambda form, forward: (http, body)


def empty_list(action: str, member: str) -> Fault:
    """The call returns an empty list."""
    return respond(f"<{action}Response><{member}/></{action}Response>")


NO_IMAGES = empty_list("DescribeImages", "imagesSet")
NO_EBS_SNAPSHOTS = empty_list("DescribeSnapshots", "snapshotSet")


def alter(*changes: tuple[str, str]) -> Fault:
    """The call is executed, and its response is changed: each pair is a text and its replacement."""

    def fault(form: Form, forward: Forward) -> Answer:
        http, body = forward(form)
        for old, new in changes:
            assert old in body, (old, body)
            body = body.replace(old, new)
        return http, body

    return fault


PENDING = alter(("available</imageState>", "pending</imageState>"))


def _error(code: str, words: str, http: int) -> Answer:
    return http, (
        f"<Response><Errors><Error><Code>{code}</Code><Message>{words}</Message></Error></Errors>"
        "<RequestID>1</RequestID></Response>"
    )


@dataclass
class Cloud:
    """`aws` is another client's access, which bypasses the proxy; `forms` are the calls that the proxy received."""

    address: str
    aws: Any
    server: ThreadingHTTPServer
    forms: list[Form] = field(default_factory=list)
    released: threading.Event = field(default_factory=threading.Event)
    faults: list[tuple[str, Fault, int]] = field(default_factory=list)

    def on(self, action: str, fault: Fault, times: int = 1) -> None:
        """Applies `fault` to the next `times` calls of an action, after the faults already registered for it."""
        self.faults += [(action, fault, times)]

    def hold(self, form: Form, forward: Forward) -> Answer | None:
        """A fault: no response until the test ends."""
        self.released.wait()
        return None

    def vanish(self, form: Form, forward: Forward) -> Answer:
        """A fault: the call is answered, and then the server closes its port."""
        answer = forward(form)
        self.server.shutdown()
        self.server.server_close()
        return answer

    @property
    def writes(self) -> list[str]:
        """The actions of all calls that were to change something."""
        return [form["Action"] for form in self.forms if not form["Action"].startswith("Describe")]

    def launch(self, name: str = "web", **arguments: Any) -> str:
        """Launches an instance. Returns its ref."""
        tags = [{"ResourceType": "instance", "Tags": [{"Key": "Name", "Value": name}]}]
        launched = self.aws.run_instances(
            ImageId="ami-12345678",
            MinCount=1,
            MaxCount=1,
            InstanceType="t3.micro",
            TagSpecifications=tags,
            **arguments,
        )
        return str(launched["Instances"][0]["InstanceId"])

    def images(self) -> list[str]:
        """The refs of all images."""
        return [image["ImageId"] for image in self.aws.describe_images(Owners=["self"])["Images"]]

    def ebs_snapshots(self) -> list[str]:
        """The refs of all EBS snapshots."""
        return [each["SnapshotId"] for each in self.aws.describe_snapshots(OwnerIds=["self"])["Snapshots"]]

    def options(self, **options: Any) -> Options:
        """The options of a driver for this cloud."""
        key = {"access_key_id": "key", "secret_access_key": Secret("secret")}
        return Options(**{"region": REGION, "address": self.address, "timeout": 10.0, **key, **options})

    def driver(self, **options: Any) -> Ec2Driver:
        """A driver with a short poll interval."""
        driver = make("aws", self.options(**options), 2)
        driver.poll_interval = 0.01
        return driver

    def answer(self, form: Form, forward: Forward) -> Answer | None:
        """The response to a call."""
        action = form["Action"]
        self.forms.append(form)
        for place, (of, fault, times) in enumerate(self.faults):
            if of == action:
                self.faults[place : place + 1] = [(of, fault, times - 1)] if times > 1 else []
                return fault(form, lambda form: self._do(form, forward))
        return self._do(form, forward)

    def _do(self, form: Form, forward: Forward) -> Answer:
        if form["Action"] != "CreateImage":
            return forward(form)
        images = self.aws.describe_images(Owners=["self"])["Images"]
        if form["Name"] in [image["Name"] for image in images]:
            return _error("InvalidAMIName.Duplicate", f"AMI name {form['Name']} is already in use", 400)
        specs = [
            key.split(".")[1] for key, value in form.items() if key.endswith("ResourceType") and value == "snapshot"
        ]
        http, body = forward(
            {k: v for k, v in form.items() if k.split(".")[:2] not in [["TagSpecification", m] for m in specs]}
        )
        if http == 200:
            self._tag_ebs_snapshots(body.partition("<imageId>")[2].partition("<")[0], form, specs)
        return http, body

    def _tag_ebs_snapshots(self, image_ref: str, form: Form, specs: list[str]) -> None:
        [image] = self.aws.describe_images(ImageIds=[image_ref])["Images"]
        refs = [mapping["Ebs"]["SnapshotId"] for mapping in image["BlockDeviceMappings"]]
        tags = {key: value for key, value in form.items() if key.split(".")[1:3] in [[spec, "Tag"] for spec in specs]}
        keys = {key.rpartition(".")[0]: value for key, value in tags.items() if key.endswith(".Key")}
        self.aws.create_tags(
            Resources=refs, Tags=[{"Key": value, "Value": tags[f"{place}.Value"]} for place, value in keys.items()]
        )


class _Handler(BaseHTTPRequestHandler):
    cloud: Cloud
    moto: int

    def do_POST(self) -> None:
        form = dict(parse_qsl(self.rfile.read(int(self.headers["Content-Length"])).decode(), keep_blank_values=True))
        answer = self.cloud.answer(form, self._forward)
        if answer is None:
            return
        http, body = answer
        content = body.encode()
        self.send_response(http)
        self.send_header("Content-Type", "text/xml")
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    def _forward(self, form: Form) -> Answer:
        connection = HTTPConnection("127.0.0.1", self.moto, timeout=30)
        try:
            headers = {key: value for key, value in self.headers.items() if key.lower() != "content-length"}
            connection.request("POST", "/", urlencode(form), headers)
            answer = connection.getresponse()
            return answer.status, answer.read().decode()
        finally:
            connection.close()

    def log_message(self, *arguments: Any) -> None:
        return None


@cache
def _moto() -> int:
    """The port of the moto server, which all tests of this process share."""
    process = subprocess.Popen(
        [sys.executable, "-W", "ignore", "-m", "tests.hypervisors.moto_server"],
        cwd=ROOT,
        stdin=subprocess.PIPE,  # moto ends when it is closed, however this process ends
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        env={**os.environ, "MOTO_EC2_LOAD_DEFAULT_AMIS": "false"},
    )
    assert process.stdin is not None
    assert process.stdout is not None
    atexit.register(process.communicate)
    return int(process.stdout.readline())


def _reset(moto: int) -> None:
    connection = HTTPConnection("127.0.0.1", moto, timeout=30)
    try:
        connection.request("POST", "/moto-api/reset")
        assert connection.getresponse().status == 200
    finally:
        connection.close()


@contextmanager
def _isolated() -> Iterator[None]:
    """Hides the host's AWS configuration and metadata service, and removes boto3's delay between attempts."""
    with patch.dict(os.environ, ENVIRONMENT), patch.object(ExponentialBackoff, "delay_amount", lambda *_: 0):
        for name in [name for name in os.environ if name.startswith("AWS_") and name not in ENVIRONMENT]:
            del os.environ[name]
        yield


@cache
def _aws(moto: int) -> Any:
    session = boto3.Session(aws_access_key_id="other", aws_secret_access_key="other", region_name=REGION)
    return session.client("ec2", endpoint_url=f"http://127.0.0.1:{moto}")


@contextmanager
def cloud() -> Iterator[Cloud]:
    """An empty cloud, for as long as the block lasts."""
    moto = _moto()
    _reset(moto)
    with _isolated(), ThreadingHTTPServer(("127.0.0.1", 0), _Handler) as server:
        aws = _aws(moto)
        made = Cloud(f"http://127.0.0.1:{server.server_port}", aws, server)
        server.RequestHandlerClass = type("Handler", (_Handler,), {"cloud": made, "moto": moto})
        serving = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, name="cloud")
        serving.start()
        try:
            yield made
        finally:
            made.released.set()
            server.shutdown()
            serving.join()
            aws.close()
