"""Events as JSON lines in a file."""
