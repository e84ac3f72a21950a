"""The plugin registry, the event bus and the contracts of Intermodal. It knows no container."""

__version__ = "0.1.0"
