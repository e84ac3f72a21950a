"""HTTP/2 for servers on asyncio (RFC 9113, RFC 7541), and gRPC on top of it.

`frames`, `hpack`, `heads`, `settings`, `flow` and `connection` are HTTP/2 and know nothing of gRPC; `messages`, `status`, `call`
and `server` are gRPC. Nothing is imported here.
"""
