"""The runtime `runsc`: gVisor, a kernel of its own for each container, under our shim."""
