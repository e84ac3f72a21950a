"""Messages generated from api/proto: containerd.services."""
