"""Messages generated from api/proto: grpc."""
