"""Messages generated from api/proto: cgroups."""
