"""The `vsphere` driver."""
