"""The port to hypervisors and clouds (`base`), and the kinds of providers: a file each, with its parts beside it."""
