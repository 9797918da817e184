"""The `openstack` driver."""
