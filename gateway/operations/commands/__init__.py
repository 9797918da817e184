"""The commands: what a caller can ask the gateway to change, one file per command."""
