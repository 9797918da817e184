"""A real OpenStack on one machine, and what the gateway does with it: `make openstack-test`."""
