"""A cloud that speaks EC2's API: moto in a process of its own, behind a proxy that makes it more like AWS.

As on AWS, no two images have the same name, and CreateImage tags the snapshots of disks. What a test wishes to go wrong
it says with `Cloud.on`.
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
from botocore.loaders import create_loader
from botocore.retries.standard import ExponentialBackoff
from botocore.session import get_session

from gateway.drivers.ec2.driver import Ec2Driver, Options, make
from gateway.drivers.options import Secret

ROOT = Path(__file__).parent.parent.parent
REGION = "eu-central-1"

ENVIRONMENT = {
    "AWS_CONFIG_FILE": os.devnull,
    "AWS_SHARED_CREDENTIALS_FILE": os.devnull,
    "AWS_EC2_METADATA_DISABLED": "true",
}

_LOADER = create_loader()

Form = dict[str, str]  # an action and its arguments
Answer = tuple[int, str]  # HTTP's code and a body
Forward = Callable[[Form], Answer]
Fault = Callable[[Form, Forward], Answer | None]  # None closes the connection without a word


def refuse(code: str, words: str = "no", http: int = 400) -> Fault:
    """Not done, for a reason."""
    return lambda form, forward: _error(code, words, http)


def lose(form: Form, forward: Forward) -> Answer | None:
    """Done, but nobody hears of it."""
    forward(form)
    return None


def drop(form: Form, forward: Forward) -> Answer | None:
    """Neither done nor answered."""
    return None


def say(body: str, http: int = 200) -> Fault:
    """Not done, and answered with something."""
    return lambda form, forward: (http, body)


def unseen(action: str, member: str) -> Fault:
    """There is nothing to be seen, or not yet."""
    return say(f"<{action}Response><{member}/></{action}Response>")


NO_IMAGES = unseen("DescribeImages", "imagesSet")
NO_DISKS = unseen("DescribeSnapshots", "snapshotSet")


def alter(*changes: tuple[str, str]) -> Fault:
    """Done, and the answer changed: each a text and what stands in its place."""

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
    """`aws` is somebody else's hand, past the proxy; `forms` are the calls that came through it."""

    address: str
    aws: Any
    server: ThreadingHTTPServer
    forms: list[Form] = field(default_factory=list)
    released: threading.Event = field(default_factory=threading.Event)
    _faults: list[tuple[str, Fault, int]] = field(default_factory=list)

    def on(self, action: str, fault: Fault, times: int = 1) -> None:
        """Lets `fault` strike at the next so many calls of an action, after those already told of."""
        self._faults += [(action, fault, times)]

    def hold(self, form: Form, forward: Forward) -> Answer | None:
        """A fault: no answer while the test lasts."""
        self.released.wait()
        return None

    def vanish(self, form: Form, forward: Forward) -> Answer:
        """A fault: the last answer, and from then on nobody listens."""
        answer = forward(form)
        self.server.shutdown()
        self.server.server_close()
        return answer

    @property
    def told(self) -> list[str]:
        """What was to change something."""
        return [form["Action"] for form in self.forms if not form["Action"].startswith("Describe")]

    def launch(self, name: str = "web", **arguments: Any) -> str:
        """A running instance; its ref."""
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
        """Refs of all images."""
        return [image["ImageId"] for image in self.aws.describe_images(Owners=["self"])["Images"]]

    def disks(self) -> list[str]:
        """Refs of the snapshots of all disks."""
        return [disk["SnapshotId"] for disk in self.aws.describe_snapshots(OwnerIds=["self"])["Snapshots"]]

    def options(self, **options: Any) -> Options:
        """How this cloud is reached."""
        key = {"access_key_id": "key", "secret_access_key": Secret("secret")}
        return Options(**{"region": REGION, "address": self.address, "timeout": 10.0, **key, **options})

    def driver(self, **options: Any) -> Ec2Driver:
        """A driver that looks often."""
        driver = make("aws", self.options(**options), 2)
        driver.look = 0.01
        session = get_session()  # reads botocore's description of EC2, which takes long, only once
        session.register_component("data_loader", _LOADER)
        driver.api._session = {**driver.api._session, "botocore_session": session}
        return driver

    def answer(self, form: Form, forward: Forward) -> Answer | None:
        """What is answered to a call."""
        action = form["Action"]
        self.forms.append(form)
        for place, (of, fault, times) in enumerate(self._faults):
            if of == action:
                self._faults[place : place + 1] = [(of, fault, times - 1)] if times > 1 else []
                return fault(form, lambda form: self._do(form, forward))
        return self._do(form, forward)

    def _do(self, form: Form, forward: Forward) -> Answer:
        if form["Action"] != "CreateImage":
            return forward(form)
        images = self.aws.describe_images(Owners=["self"])["Images"]
        if form["Name"] in [image["Name"] for image in images]:
            return _error("InvalidAMIName.Duplicate", f"AMI name {form['Name']} is already in use", 400)
        marks = [
            key.split(".")[1] for key, value in form.items() if key.endswith("ResourceType") and value == "snapshot"
        ]
        http, body = forward(
            {k: v for k, v in form.items() if k.split(".")[:2] not in [["TagSpecification", m] for m in marks]}
        )
        if http == 200:
            self._tag_disks(body.partition("<imageId>")[2].partition("<")[0], form, marks)
        return http, body

    def _tag_disks(self, image_ref: str, form: Form, marks: list[str]) -> None:
        [image] = self.aws.describe_images(ImageIds=[image_ref])["Images"]
        disks = [mapping["Ebs"]["SnapshotId"] for mapping in image["BlockDeviceMappings"]]
        tags = {key: value for key, value in form.items() if key.split(".")[1:3] in [[mark, "Tag"] for mark in marks]}
        keys = {key.rpartition(".")[0]: value for key, value in tags.items() if key.endswith(".Key")}
        self.aws.create_tags(
            Resources=disks, Tags=[{"Key": value, "Value": tags[f"{place}.Value"]} for place, value in keys.items()]
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
    """The port of a moto that serves all tests of this process."""
    process = subprocess.Popen(
        [sys.executable, "-W", "ignore", "-m", "tests.hypervisors.moto_server"],
        cwd=ROOT,
        stdin=subprocess.PIPE,  # its end is moto's end, however this process ends
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
def _alone() -> Iterator[None]:
    """Nothing of this machine's is found, and nobody else asked; and boto3 does not wait between its tries."""
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
    """An empty one."""
    moto = _moto()
    _reset(moto)
    with _alone(), ThreadingHTTPServer(("127.0.0.1", 0), _Handler) as server:
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
