"""The driver port to hypervisors and clouds (`base`), and one package per kind of provider."""
