"""Messages generated from api/proto: cri."""
