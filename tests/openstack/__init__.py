"""Tests against a real OpenStack, which is installed on this host: `make openstack-test`."""
