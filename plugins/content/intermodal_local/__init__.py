"""Content in plain files: `Store` is the library, `plugin` the adapter."""
