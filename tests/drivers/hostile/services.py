"""The APIs of providers with two machines of one snapshot each, in the few calls that a refresh makes."""

import json
import re
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

Odd = Callable[["Request"], "Answer | None"]

JSON, XML = "application/json", "text/xml"


@dataclass(frozen=True, slots=True)
class Request:
    """A request to a provider. `url` is that of the provider, `elsewhere` that of a host that is not configured."""

    method: str
    path: str
    body: str
    url: str
    elsewhere: str


@dataclass(frozen=True, slots=True)
class Answer:
    """The body of a response, as text, and its status and headers."""

    body: str
    status: int = 200
    headers: tuple[tuple[str, str], ...] = ()


@dataclass(frozen=True, slots=True)
class Service:
    """`answer` serves a request. `is_login` is true for requests that log in or read a catalog.

    `odd` has responses that are well-formed and wrong: the answer to a request for data, or None to answer as usual.
    `odd_logins` has the same for requests that log in.
    """

    media_type: str
    answer: Callable[[Request], Answer]
    is_login: Callable[[Request], bool]
    odd: dict[str, Odd]
    odd_logins: dict[str, Odd] = field(default_factory=dict)


def _json(value: Any, status: int = 200, *headers: tuple[str, str]) -> Answer:
    return Answer(json.dumps(value), status, headers)


LONG = "x" * 2**20  # a name that is too long
_TIME = 1_700_000_000

# ---- Proxmox VE


def _proxmox(request: Request) -> Answer:
    path = request.path.partition("?")[0].removeprefix("/api2/json/")
    found: Any = [
        {"type": "qemu", "vmid": number, "node": "n1", "name": f"m{number}", "status": "stopped"} for number in (1, 2)
    ]
    if path == "access/ticket":
        found = {"ticket": "the-ticket", "CSRFPreventionToken": "the-token"}
    elif path == "access/permissions":
        found = {"/": {"VM.Audit": 1}}
    elif path.endswith("/snapshot"):
        found = [{"name": "before", "snaptime": _TIME}, {"name": "current", "parent": "before"}]
    return _json({"data": found})


def _proxmox_with(**entry: Any) -> Odd:
    """Changes the first machine in the listing of the cluster."""

    def answer(request: Request) -> Answer | None:
        if "cluster/resources" not in request.path:
            return None
        data = json.loads(_proxmox(request).body)["data"]
        return _json({"data": [data[0] | entry, data[1]]})

    return answer


def _proxmox_snapshots(*entries: dict[str, Any]) -> Odd:
    """Changes the snapshots of the first machine."""

    def answer(request: Request) -> Answer | None:
        return _json({"data": [*entries, {"name": "current"}]}) if request.path.endswith("/1/snapshot") else None

    return answer


def _not_a_listing(request: Request) -> Answer:
    return _json({"data": 7, "servers": 7, "images": "no", "token": []})


PROXMOX = Service(
    JSON,
    _proxmox,
    lambda request: request.path.endswith("/access/ticket"),
    {
        "not a list": _not_a_listing,
        "an empty object": lambda request: _json({}),
        "a list of numbers": lambda request: _json({"data": [1, 2]}),
        "a machine without an id": _proxmox_with(vmid=None),
        "a name that is an object": _proxmox_with(name={"a": [1]}),
        "a name of 1 MB": _proxmox_with(name=LONG),
        "a name with NUL and half a surrogate": _proxmox_with(name="a\0\ud800b"),
        "a state that is a list": _proxmox_with(status=["running"], qmpstatus={}),
        "a node that is a number": _proxmox_with(node=7),
        "a time that is text": _proxmox_snapshots({"name": "before", "snaptime": str(_TIME)}),
        "snapshots that are each other's parents": _proxmox_snapshots(
            {"name": "before", "snaptime": _TIME, "parent": "b"}, {"name": "b", "snaptime": 1, "parent": "before"}
        ),
    },
    {
        "a ticket that is an object": lambda request: _json({"data": {"ticket": {}, "CSRFPreventionToken": [1]}}),
        "a ticket with line breaks": lambda request: _json(
            {"data": {"ticket": "a\r\nb: c", "CSRFPreventionToken": "d"}}
        ),
    },
)

# ---- OpenStack


def _openstack(request: Request) -> Answer:
    path = request.path.partition("?")[0]
    if path.endswith("/auth/tokens"):
        return _json({"token": _keystone_token(request.url)}, 201, ("X-Subject-Token", "the-token"))
    if path.startswith("/identity"):
        return _json({"version": {"id": "v3.14", "status": "stable", "links": []}})
    if path.startswith("/image"):
        return _glance(request)
    if path.endswith("/servers/detail"):
        return _json({"servers": [] if "marker" in request.path else [_server("s1"), _server("s2")]})
    if "/servers/" in path:
        return _json({"server": _server(path.rpartition("/")[2])})
    link = {"rel": "self", "href": f"{request.url}/compute/v2.1/"}
    return _json(
        {"version": {"id": "v2.1", "status": "CURRENT", "version": "2.104", "min_version": "2.1", "links": [link]}}
    )


def _keystone_token(url: str) -> dict[str, Any]:
    domain = {"id": "default", "name": "Default"}
    return {
        "methods": ["password"],
        "user": {"id": "gateway", "name": "gateway", "domain": domain},
        "project": {"id": "ours", "name": "ours", "domain": domain},
        "catalog": [
            {
                "type": kind,
                "endpoints": [{"interface": "public", "region_id": "R", "id": kind, "url": f"{url}/{place}"}],
            }
            for kind, place in (("compute", "compute/v2.1"), ("image", "image"))
        ],
        "issued_at": "2026-11-25T06:52:20.000000Z",
        "expires_at": "2999-11-25T07:52:20.000000Z",
    }


def _server(ref: str) -> dict[str, Any]:
    more = {"created": "2026-01-01T00:00:00Z", "OS-EXT-STS:power_state": 4, "OS-EXT-STS:task_state": None}
    return {"id": ref, "name": f"m{ref}", "status": "SHUTOFF", **more}


def _glance(request: Request) -> Answer:
    if "/images" not in request.path:
        versions = [{"id": "v2.9", "status": "CURRENT", "links": [{"rel": "self", "href": f"{request.url}/image/v2/"}]}]
        return _json({"versions": versions}, 300)
    found = re.search("instance_uuid=(s[0-9])", request.path)
    return _json({"images": [_image(found[1])] if found else []})


def _image(server: str) -> dict[str, Any]:
    more = {"status": "active", "size": 1, "created_at": "2026-01-01T00:00:00Z"}
    return {"id": f"image-of-{server}", "name": "before", "instance_uuid": server, **more}


def _openstack_with(**server: Any) -> Odd:
    """Changes the first server in the listing."""

    def answer(request: Request) -> Answer | None:
        if "/servers/detail" not in request.path:
            return None
        return _json({"servers": [_server("s1") | server, _server("s2")]})

    return answer


def _catalog_in_clear_text(request: Request) -> Answer | None:
    if not request.path.endswith("/auth/tokens"):
        return None
    return _json({"token": _keystone_token(request.elsewhere)}, 201, ("X-Subject-Token", "the-token"))


def _endless_servers(request: Request) -> Answer | None:
    if "/servers/detail" not in request.path:
        return None
    return _json({"servers": [_server(f"s{number}") for number in range(500)], "servers_links": [1]})


def _endless_images(request: Request) -> Answer | None:
    return _json({"images": [_image("s1")] * 500, "next": "/v2/images?again"}) if "/images" in request.path else None


def _next_on_another_host(request: Request) -> Answer | None:
    return _json({"images": [], "next": f"{request.elsewhere}/images?x"}) if "/images" in request.path else None


def _next_without_a_scheme(request: Request) -> Answer | None:
    path = request.elsewhere.removeprefix("http:")
    return _json({"images": [], "next": f"/v2{path}/images?x"}) if "/images" in request.path else None


def _images_with(**image: Any) -> Odd:
    """Changes the image of the first server."""

    def answer(request: Request) -> Answer | None:
        return _json({"images": [_image("s1") | image]}) if "instance_uuid=s1" in request.path else None

    return answer


OPENSTACK = Service(
    JSON,
    _openstack,
    lambda request: request.path.startswith("/identity"),
    {
        "not a list": _not_a_listing,
        "an empty object": lambda request: _json({}),
        "a list of numbers": lambda request: _json({"servers": [1, 2], "images": [1, 2]}),
        "a machine without an id": _openstack_with(id=None),
        "a name that is an object": _openstack_with(name={"a": [1]}),
        "a name of 1 MB": _openstack_with(name=LONG),
        "a name with NUL": _openstack_with(name="a\0b"),
        "a status that is a list": _openstack_with(status=["ACTIVE"]),
        "a time that is a number": _openstack_with(created=7),
        "an image without a time": _images_with(created_at=None),
        "pages of servers without end": _endless_servers,
        "pages of images without end": _endless_images,
        "a next page on another host": _next_on_another_host,
        "a next page without a scheme": _next_without_a_scheme,
    },
    {
        "a token that is a list": lambda request: _json({"token": [1]}, 201, ("X-Subject-Token", "the-token")),
        "a token without a catalog": lambda request: _json({"token": {}}, 201, ("X-Subject-Token", "the-token")),
        "a catalog with addresses in clear text": _catalog_in_clear_text,
    },
)

# ---- EC2

_EC2 = "http://ec2.amazonaws.com/doc/2016-11-15/"


def _ec2_answer(action: str, content: str) -> Answer:
    return Answer(f'<{action}Response xmlns="{_EC2}"><requestId>r</requestId>{content}</{action}Response>')


def _instance(ref: str, name: str = "", state: str = "<code>80</code><name>stopped</name>") -> str:
    tag = f"<tagSet><item><key>Name</key><value>{name or ref}</value></item></tagSet>"
    return f"<item><instanceId>{ref}</instanceId><instanceState>{state}</instanceState>{tag}</item>"


def _reservations(*instances: str) -> str:
    items = f"<item><instancesSet>{''.join(instances)}</instancesSet></item>"
    return f"<reservationSet>{items}</reservationSet>"


def _ec2(request: Request) -> Answer:
    if "Action=DescribeImages" in request.body:
        found = re.search("i-0[12]", request.body)
        ref = found[0] if found else ""
        more = f"<imageState>available</imageState><sourceInstanceId>{ref}</sourceInstanceId><name>before</name>"
        image = f"<item><imageId>ami-{ref}</imageId>{more}<creationDate>2026-01-01T00:00:00.000Z</creationDate></item>"
        return _ec2_answer("DescribeImages", f"<imagesSet>{image}</imagesSet>")
    if "Action=DescribeSnapshots" in request.body:
        return _ec2_answer("DescribeSnapshots", "<snapshotSet/>")
    refs = [ref for ref in ("i-01", "i-02") if "instance-id" not in request.body or ref in request.body]
    return _ec2_answer("DescribeInstances", _reservations(*map(_instance, refs)))


def _ec2_instances(content: str) -> Odd:
    def answer(request: Request) -> Answer | None:
        listing = "Action=DescribeInstances" in request.body and "instance-id" not in request.body
        return _ec2_answer("DescribeInstances", content) if listing else None

    return answer


def _ec2_images(content: str) -> Odd:
    def answer(request: Request) -> Answer | None:
        return _ec2_answer("DescribeImages", content) if "i-01" in request.body and "Images" in request.body else None

    return answer


EC2 = Service(
    XML,
    _ec2,
    lambda request: False,
    {
        "not a list": lambda request: _ec2_answer("DescribeInstances", "7"),
        "HTML": lambda request: Answer("<html><h1>Welcome</h1></html>"),
        "an empty body": lambda request: Answer(""),
        "a machine without an id": _ec2_instances(_reservations("<item><tagSet/></item>", _instance("i-02"))),
        "a state without a name": _ec2_instances(_reservations(_instance("i-01", state="<a/>"), _instance("i-02"))),
        "a name of 1 MB": _ec2_instances(_reservations(_instance("i-01", LONG), _instance("i-02"))),
        "an image without a name and a time": _ec2_images("<imagesSet><item><imageId>a</imageId></item></imagesSet>"),
        "pages without end": _ec2_instances(
            _reservations(*(_instance(f"i-{number}") for number in range(500))) + "<nextToken>again</nextToken>"
        ),
    },
)

# ---- vSphere

_ENVELOPE = (
    '<?xml version="1.0" encoding="UTF-8"?><soapenv:Envelope xmlns:soapenv="http://schemas.xmlsoap.org/soap/envelope/"'
    ' xmlns:xsd="http://www.w3.org/2001/XMLSchema" xmlns:xsi="http://www.w3.org/2001/XMLSchema-instance"><soapenv:Body>'
    '<{method}Response xmlns="urn:vim25">{content}</{method}Response></soapenv:Body></soapenv:Envelope>'
)
_CONTENT = (
    '<returnval><rootFolder type="Folder">group-d1</rootFolder><propertyCollector type="PropertyCollector">pc'
    '</propertyCollector><viewManager type="ViewManager">views</viewManager><about><name>vCenter</name></about>'
    '<sessionManager type="SessionManager">sessions</sessionManager></returnval>'
)
_SNAPSHOTS = (
    '<currentSnapshot type="VirtualMachineSnapshot">snap-{ref}</currentSnapshot><rootSnapshotList>'
    '<snapshot type="VirtualMachineSnapshot">snap-{ref}</snapshot><vm type="VirtualMachine">{ref}</vm>'
    "<name>before</name><description></description><id>1</id><createTime>{time}</createTime>"
    "<state>poweredOff</state><quiesced>false</quiesced></rootSnapshotList>"
)


def _soap(method: str, content: str) -> Answer:
    return Answer(_ENVELOPE.format(method=method, content=content))


def _property(name: str, type_: str, value: str) -> str:
    return f'<propSet><name>{name}</name><val xsi:type="{type_}">{value}</val></propSet>'


def _machine(ref: str, name: str = "", time: str = "2026-01-01T00:00:00Z", power: str = "poweredOff") -> str:
    properties = [
        _property("name", "xsd:string", name or ref),
        _property("runtime.connectionState", "VirtualMachineConnectionState", "connected"),
        _property("runtime.powerState", "VirtualMachinePowerState", power),
        _property("snapshot", "VirtualMachineSnapshotInfo", _SNAPSHOTS.format(ref=ref, time=time)),
    ]
    return f'<objects><obj type="VirtualMachine">{ref}</obj>{"".join(properties)}</objects>'


def _vsphere(request: Request) -> Answer:
    if "<Logout" in request.body:
        return _soap("Logout", "")
    if "<Login" in request.body:
        user = "<key>k</key><userName>u</userName><fullName>u</fullName>"
        return _soap("Login", f"<returnval>{user}</returnval>")
    if "<CreateContainerView" in request.body:
        return _soap("CreateContainerView", '<returnval type="ContainerView">view</returnval>')
    if "<RetrieveServiceContent" in request.body:
        return _soap("RetrieveServiceContent", _CONTENT)
    refs = [ref for ref in ("vm-1", "vm-2") if f">{ref}<" in request.body] or ["vm-1", "vm-2"]
    return _soap("RetrievePropertiesEx", f"<returnval>{_view(request)}{''.join(map(_machine, refs))}</returnval>")


def _view(request: Request) -> str:
    """The object at which the listing starts, if the request is for the listing."""
    if ">view<" not in request.body:
        return ""
    value = '<val xsi:type="ArrayOfString"><string>VirtualMachine</string></val>'
    return f'<objects><obj type="ContainerView">view</obj><propSet><name>type</name>{value}</propSet></objects>'


def _vsphere_objects(*objects: str, token: str = "") -> Odd:
    def answer(request: Request) -> Answer | None:
        method = "ContinueRetrievePropertiesEx" if "<Continue" in request.body else "RetrievePropertiesEx"
        asked = re.search(">(vm-[12])<", request.body)
        chosen = objects if asked is None else [one for one in objects if f">{asked[1]}<" in one]
        return _soap(method, f"<returnval>{token}{_view(request)}{''.join(chosen)}</returnval>")

    return answer


VSPHERE = Service(
    XML,
    _vsphere,
    lambda request: "RetrieveProperties" not in request.body,
    {
        "not a list": lambda request: _soap("RetrievePropertiesEx", "<returnval>7</returnval>"),
        "an empty object": lambda request: _soap("RetrievePropertiesEx", "<returnval/>"),
        "no object": lambda request: _soap("RetrievePropertiesEx", ""),
        "HTML": lambda request: Answer("<html><h1>Welcome</h1></html>"),
        "an empty body": lambda request: Answer(""),
        "a machine without a state": _vsphere_objects(
            f'<objects><obj type="VirtualMachine">vm-1</obj>{_property("name", "xsd:string", "a")}</objects>',
            _machine("vm-2"),
        ),
        "an object of another type": _vsphere_objects(
            _machine("vm-1").replace("VirtualMachine", "Folder", 1), _machine("vm-2")
        ),
        "a name of 1 MB": _vsphere_objects(_machine("vm-1", LONG), _machine("vm-2")),
        "an unknown power state": _vsphere_objects(_machine("vm-1", power="molten"), _machine("vm-2")),
        "a time that is no time": _vsphere_objects(_machine("vm-1", time="yesterday"), _machine("vm-2")),
        "pages without end": _vsphere_objects(*map(_machine, ("vm-1", "vm-2")), token="<token>again</token>"),
        "empty pages without end": _vsphere_objects(token="<token>again</token>"),
    },
    {"a host without managers": lambda request: _soap("RetrieveServiceContent", "<returnval/>")},
)
