"""`make bench`: the gateway beside what people would pick instead, on the same data and the same machine."""
