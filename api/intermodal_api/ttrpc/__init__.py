"""Messages generated from api/proto: ttrpc."""
