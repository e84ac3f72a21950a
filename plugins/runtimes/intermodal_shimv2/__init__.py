"""The runtime `shimv2`: any shim binary that speaks containerd's shim protocol, version 2."""
