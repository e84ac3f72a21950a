"""Messages generated from api/proto: google."""
