"""The command `imod`."""
