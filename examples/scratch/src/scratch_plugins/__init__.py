"""Copies for containers that have a limit, and a hook that tells them of it."""
