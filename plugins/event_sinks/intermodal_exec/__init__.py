"""Events to a command."""
