"""The `proxmox` driver."""
