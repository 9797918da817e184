"""Fills Keystone's catalog and grants the admin the role that services need. Runs in the services' environment."""

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
for kind, name, url in (
    ("image", "glance", "http://127.0.0.1:15002"),
    ("placement", "placement", "http://127.0.0.1:15003"),
    ("network", "neutron", "http://127.0.0.1:15004"),
    ("compute", "nova", "http://127.0.0.1:15005/v2.1"),
):
    service = cloud.identity.create_service(type=kind, name=name)
    for interface in ("public", "internal", "admin"):
        cloud.identity.create_endpoint(service_id=service.id, interface=interface, url=url, region_id="RegionOne")
role = cloud.identity.find_role("service") or cloud.identity.create_role(name="service")
project, user = cloud.identity.find_project("admin"), cloud.identity.find_user("admin")
cloud.identity.assign_project_role_to_user(project, user, role)
