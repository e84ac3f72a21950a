"""Metadata in one SQLite database: `Store` is the library, `plugin` the adapter."""
