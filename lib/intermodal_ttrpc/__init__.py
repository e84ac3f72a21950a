"""ttrpc: unary calls over one unix socket, for asyncio (`client`, `server`) and for a plain poller (`dispatch`).

Nothing is imported here: a forked process takes only the modules that it needs.
"""
