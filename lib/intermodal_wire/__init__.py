"""Contracts over gRPC, as containerd's clients and its proxy plugins speak them.

`values` puts contracts' values into messages and back; `snapshots`, `content` and `diff` are services over the store and images
managers' contracts, or whatever has the same methods. Nothing is imported here.
"""
