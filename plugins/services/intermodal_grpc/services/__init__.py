"""One module a service; each translates to a manager and keeps neither state nor logic."""
