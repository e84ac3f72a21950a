"""The manager of event sinks."""
