"""DALP beside other engines for durable execution, each running the same program on this machine: `make bench-peers`.

Here is the harness, with one module per peer; what runs in a peer's own processes, with its own packages, is in `programs`.
"""
