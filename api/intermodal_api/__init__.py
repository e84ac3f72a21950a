"""Messages generated from api/proto: the wire."""
