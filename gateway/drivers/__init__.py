"""The port to hypervisors and clouds (`base`), and one file per kind of provider."""
