"""Messages generated from api/proto: containerd.runtime."""
