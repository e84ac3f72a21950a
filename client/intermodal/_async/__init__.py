"""The client's implementation, written once: tools/generate-sync makes `_sync` of it."""
