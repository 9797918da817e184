"""The `libvirt` driver."""
