"""`make bench`: compares the gateway with alternatives, on the same data and the same machine."""
