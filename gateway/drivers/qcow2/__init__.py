"""The `qcow2` driver."""
