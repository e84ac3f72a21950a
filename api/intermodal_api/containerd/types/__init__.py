"""Messages generated from api/proto: containerd.types."""
