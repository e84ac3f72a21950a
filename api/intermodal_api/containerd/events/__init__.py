"""Messages generated from api/proto: containerd.events."""
